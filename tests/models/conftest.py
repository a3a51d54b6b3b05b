"""A whole stack whose models are those of a provider that fails as told, and the real OpenAI SDK in front of it."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from slipway_cli.session import connect
from slipway_testkit.provider import Provider, Script, running
from slipway_testkit.stack import Stack

REPOSITORY = Path(__file__).parents[2]


@dataclass
class Models:
    """The stack, its provider, and its catalogue as a document that can be written anew."""

    stack: Stack
    provider: Provider
    catalogue: Path
    key_file: Path
    document: dict[str, Any]

    def token(self, user: str = "alice") -> str:
        client = connect(self.stack.data_dir, user)
        return client._transport._token()

    def sdk(self, **more: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.stack.url}/v1", api_key=self.token(), max_retries=0, **more)

    def async_sdk(self, **more: Any) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.stack.url}/v1", api_key=self.token(), max_retries=0, **more)

    def write(self) -> None:
        """Put the document in force, as an editor does: a new file in the place of the old one."""
        fresh = self.catalogue.with_suffix(".new")
        fresh.write_text(json.dumps(self.document, indent=1))
        fresh.replace(self.catalogue)


@pytest.fixture(scope="session")
def start_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Models]]:
    """Starts a stack over scripts and routes: `{route: [script, …]}`, each candidate a model of its own."""
    stacks: list[Stack] = []
    providers: list[Any] = []

    def start(
        scripts: dict[str, Script],
        routes: dict[str, list[str]],
        routes_with: dict[str, dict[str, Any]],
        **limits: float,
    ) -> Models:
        serving = running(Provider(scripts))
        provider = serving.__enter__()
        providers.append(serving)
        config = tmp_path_factory.mktemp("config")
        for part in ("policies", "realm"):
            shutil.copytree(REPOSITORY / "k8s" / part, config / part)
        (config / "catalogue").mkdir()
        key_file = config / "provider-key"
        key_file.write_text("sk-first\n")
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
        document = {
            "version": 1,
            "regions": ["eu"],
            "providers": {
                "faulty": {
                    "type": "openai",
                    "base_url": f"http://127.0.0.1:{provider.port}/v1",
                    "api_key": f"file:{key_file}",
                    "regions": ["eu"],
                }
            },
            "models": models,
            "routes": {
                route: {"candidates": [f"{route}.{n}" for n in range(len(candidates))], **limits}
                | routes_with.get(route, {})
                for route, candidates in routes.items()
            },
        }
        made = Models(None, provider, config / "catalogue" / "models.yaml", key_file, document)  # type: ignore[arg-type]
        made.write()
        made.stack = Stack(tmp_path_factory.mktemp("stack") / "data", ["--config", str(config), "--workers", "1"])
        stacks.append(made.stack)
        made.stack.ready()
        return made

    yield start
    for stack in stacks:
        stack.stop()
    for serving in providers:
        serving.__exit__(None, None, None)
