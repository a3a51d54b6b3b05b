"""Gateway and router as processes before a provider that fails as told, and the real OpenAI SDK in front of them."""

import base64
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from slipway_testkit.provider import Provider, Script, running
from slipway_testkit.servers.process import ServerProcess

REPOSITORY = Path(__file__).parents[2]
DATA_KEY = base64.b64encode(bytes(32)).decode()


@dataclass
class Models:
    """The running pair and its provider."""

    provider: Provider
    url: str
    token: str

    def sdk(self) -> openai.OpenAI:
        """The SDK as alice of acme; failures are seen at once."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.token, max_retries=0)

    def async_sdk(self) -> openai.AsyncOpenAI:
        """The same, asynchronous."""
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key=self.token, max_retries=0)


def answers(url: str) -> Callable[[], bool]:
    """Whether an address answers 200."""

    def look() -> bool:
        try:
            return httpx.get(url).status_code == 200
        except httpx.TransportError:
            return False

    return look


def catalogue(port: int, routes: dict[str, list[str]], patient: list[str], seconds: float) -> dict[str, Any]:
    """Each candidate of a route is a script, and a model of its own; an attempt takes `seconds` at most, but for the
    `patient` routes."""
    models = {
        f"{route}.{n}": {
            "provider": "faulty",
            "upstream": f"{script}@{route}.{n}",
            "kind": "embedding" if script == "vectors" else "chat",
            "context_window": 8_000_000,
            "max_output_tokens": 1000,
            "capabilities": ["tools", "response_format", "images"],
            "price": {"input": "1", "output": "10"},
        }
        for route, candidates in routes.items()
        for n, script in enumerate(candidates)
    }
    url = f"http://127.0.0.1:{port}/v1"
    return {
        "version": 1,
        "regions": ["eu"],
        "providers": {"faulty": {"type": "openai", "base_url": url, "api_key": "env:FAULTY_KEY", "regions": ["eu"]}},
        "models": models,
        "routes": {
            route: {
                "candidates": [f"{route}.{n}" for n in range(len(candidates))],
                **({} if route in patient else {"attempt_seconds": seconds, "first_token_seconds": seconds}),
            }
            for route, candidates in routes.items()
        },
    }


@pytest.fixture(scope="session")
def start_models(
    tmp_path_factory: pytest.TempPathFactory,
    new_database: Callable[[], str],
    valkey_url: str,
    policy_dir: Path,
    free_port: Callable[[], int],
) -> Iterator[Callable[..., Models]]:
    """Starts the processes over scripts and routes: `{route: [script, …]}`."""
    with ExitStack() as stack:

        def start(
            scripts: dict[str, Script], routes: dict[str, list[str]], patient: list[str], seconds: float
        ) -> Models:
            folder = tmp_path_factory.mktemp("models")
            provider = stack.enter_context(running(Provider(scripts)))
            (folder / "models.yaml").write_text(
                json.dumps(catalogue(provider.port, routes, patient, seconds), indent=1)
            )

            def process(module: str, env: dict[str, str], ready: str, *arguments: str) -> None:
                made = ServerProcess(module, (sys.executable, "-m", module, *arguments), folder / f"{module}.log", env)
                made.start(answers(ready), timeout=60)
                stack.callback(made.stop)

            issuer = f"127.0.0.1:{free_port()}"
            realm = REPOSITORY / "k8s" / "realm" / "slipway-realm.json"
            issuer_url = f"http://{issuer}/realms/slipway"
            process(
                "slipway_gateway.dev_issuer",
                {
                    "SLIPWAY_DEV_ISSUER_LISTEN": issuer,
                    "SLIPWAY_DEV_ISSUER_REALM_FILE": str(realm),
                    "SLIPWAY_DEV_ISSUER_KEY_DIR": str(folder / "issuer-keys"),
                },
                f"{issuer_url}/.well-known/openid-configuration",
            )
            keys = folder / "gateway-keys"
            command = [sys.executable, "-m", "slipway_gateway.keys", "init", str(keys)]
            subprocess.run(command, capture_output=True, check=True)
            router, metrics, own = free_port(), free_port(), free_port()
            shared = {
                "REDIS_URL": valkey_url,
                "BUS_URL": valkey_url,
                "CALLER_JWKS_FILE": str(keys / "jwks.json"),
                "POLICY_DIR": str(policy_dir),
                "DATA_KEY": DATA_KEY,
            }
            router_env = shared | {
                "DATABASE_URL": new_database(),
                "GRPC_LISTEN": f"127.0.0.1:{router}",
                "METRICS_LISTEN": f"127.0.0.1:{metrics}",
                "IDENTITY_TARGET": f"127.0.0.1:{own}",
                "SERVICE_SECRET": "the-routers-own-secret",
                "CATALOGUE_FILE": str(folder / "models.yaml"),
            }
            gateway = f"127.0.0.1:{free_port()}"
            gateway_env = shared | {
                "DATABASE_URL": new_database(),
                "HTTP_LISTEN": gateway,
                "GRPC_LISTEN": f"127.0.0.1:{own}",
                "METRICS_LISTEN": f"127.0.0.1:{free_port()}",
                "SIGNING_KEY_FILE": str(keys / "signing.pem"),
                "OIDC_ISSUER": issuer_url,
                "OIDC_AZP": json.dumps(["slipway-cli"]),
                "DIRECTORY_URL": f"realm-file://{realm}",
                "SERVICE_SECRETS": json.dumps({"router": "the-routers-own-secret"}),
                **{f"{peer}_TARGET": "127.0.0.1:9" for peer in ("ORCHESTRATOR", "MEMORY", "TOOLS", "AUDIT")},
                "ROUTER_TARGET": f"127.0.0.1:{router}",
            }
            named = {f"SLIPWAY_ROUTER_{name}": value for name, value in router_env.items()}
            process("slipway_router.main", named | {"FAULTY_KEY": "sk-first"}, f"http://127.0.0.1:{metrics}/readyz")
            named = {f"SLIPWAY_GATEWAY_{name}": value for name, value in gateway_env.items()}
            process("slipway_gateway.main", named, f"http://{gateway}/livez")
            form = {"grant_type": "password", "client_id": "slipway-cli", "username": "alice", "password": "alice"}
            answer = httpx.post(f"{issuer_url}/protocol/openid-connect/token", data=form)
            return Models(provider, f"http://{gateway}", answer.json()["access_token"])

        yield start
