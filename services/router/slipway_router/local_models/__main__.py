"""Entry point: `python -m slipway_router.local_models`."""

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import Generator

import pydantic
import uvicorn

from slipway_router.local_models.app import LocalModels, build
from slipway_router.local_models.artifacts import ArtifactMissing
from slipway_router.local_models.settings import LocalModelsSettings


class _Server(uvicorn.Server):
    """uvicorn raises the signal again once it has stopped, which would end the process before the models are freed."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


def _say(event: str, **fields: object) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)  # noqa: T201 - the supervisor reads this line


async def serve(settings: LocalModelsSettings) -> None:
    """Serve until SIGTERM or SIGINT; raises ArtifactMissing when a model file is not installed."""
    models = LocalModels(settings.threads)
    key = settings.api_key.get_secret_value() if settings.api_key else None
    config = uvicorn.Config(
        build(models, key),
        host=settings.host,
        port=settings.port,
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=5,
        # Longer than callers keep idle connections, so that none is used in the moment it closes.
        timeout_keep_alive=75,
        server_header=False,
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve())
    try:
        await models.load()
        while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        if server.started:
            port = server.servers[0].sockets[0].getsockname()[1]
            _say("local_models.ready", address=f"{settings.host}:{port}")
        await serving
    finally:
        server.should_exit = True
        await serving
        models.close()


def main() -> None:
    """Read the environment and run; exit code 2 for wrong settings or missing model files."""
    try:
        settings = LocalModelsSettings()
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        name = "SLIPWAY_LOCAL_MODELS_" + ("_".join(str(part) for part in problem["loc"]).upper() or "*")
        sys.exit(_refuse(f"{name}: {problem['msg']}"))
    try:
        asyncio.run(serve(settings))
    except ArtifactMissing as error:
        sys.exit(_refuse(str(error)))


def _refuse(sentence: str) -> int:
    print(sentence, file=sys.stderr)  # noqa: T201 - the answer to whoever started the process
    return 2


if __name__ == "__main__":
    main()
