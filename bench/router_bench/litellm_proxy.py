"""The peer: LiteLLM's proxy 1.106.2 with one worker, in a virtual environment of its own.

No other release is ever installed: 1.82.7, 1.82.8 and 1.107.0 on PyPI were malicious. A key is checked, its rate limit
counted and every call recorded with its cost: all in the process, without a database, which is in the peer's favour.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from slipway_testkit.servers.process import ServerProcess, ServerUnavailable, free_port

from router_bench.load import Door
from router_bench.provider import MODEL

VERSION = "1.106.2"
_KEY = "sk-bench-0123456789abcdef"
_HOOKS = '''
"""Authentication with a rate limit, and one JSON line for each call."""

import json

from litellm.integrations.custom_logger import CustomLogger
from litellm.proxy._types import UserAPIKeyAuth


async def authenticate(request, api_key: str) -> UserAPIKeyAuth:
    if api_key != "%(key)s":
        raise ValueError("unknown key")
    return UserAPIKeyAuth(api_key=api_key, user_id="bench", rpm_limit=100000000, tpm_limit=100000000000)


class Records(CustomLogger):
    def __init__(self) -> None:
        super().__init__()
        self._file = open("%(folder)s/records.jsonl", "a", buffering=65536)

    async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
        payload = kwargs["standard_logging_object"]
        names = ("id", "model", "response_cost", "prompt_tokens", "completion_tokens", "startTime", "endTime")
        record = {name: payload.get(name) for name in names}
        record |= {"messages": payload.get("messages"), "response": payload.get("response")}
        self._file.write(json.dumps(record) + "\\n")


records = Records()
'''


def install(cache: Path) -> Path:
    """The proxy's environment, made at first use. ServerUnavailable when it can't be."""
    folder = cache / f"litellm-{VERSION}"
    program = folder / "bin" / "litellm"
    if program.exists():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [str(folder / "bin" / "pip"), "install", "--quiet", f"litellm[proxy]=={VERSION}"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ServerUnavailable(f"litellm[proxy]=={VERSION} cannot be installed: {done.stderr.strip()[-300:]}")
    return folder


@contextmanager
def litellm_proxy(cache: Path, folder: Path, whole: str, paced: str) -> Iterator[tuple[Door, int]]:
    """A running proxy and its process id; `whole` and `paced` are base URLs of the provider."""
    environment = install(cache)
    model = {"model": f"openai/{MODEL}", "api_key": "sk-provider"}
    model |= {"input_cost_per_token": 4e-7, "output_cost_per_token": 1.6e-6}
    config = {
        "model_list": [
            {"model_name": name, "litellm_params": {**model, "api_base": url}}
            for name, url in (("whole", whole), ("paced", paced))
        ],
        "litellm_settings": {"callbacks": ["hooks.records"], "num_retries": 0, "cache": False, "telemetry": False},
        "router_settings": {"num_retries": 0, "enable_pre_call_checks": False},
        "general_settings": {"custom_auth": "hooks.authenticate", "master_key": f"{_KEY}-master"},
    }  # fmt: skip
    # JSON is YAML.
    (folder / "config.yaml").write_text(json.dumps(config))
    (folder / "hooks.py").write_text(_HOOKS % {"key": _KEY, "folder": folder})
    port = free_port()
    command = [
        str(environment / "bin" / "litellm"), "--config", str(folder / "config.yaml"), "--host", "127.0.0.1",
        "--port", str(port), "--num_workers", "1",
    ]  # fmt: skip
    variables = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    server = ServerProcess("LiteLLM", command, folder / "litellm.log", variables)
    door = Door(f"http://127.0.0.1:{port}/v1", _KEY)

    def ready() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/health/liveliness").status_code == 200
        except httpx.TransportError:
            return False

    server.start(ready, timeout=180)
    try:
        yield door, server.pid
    finally:
        server.stop()
