"""A service process for the lifecycle tests: `slow` calls, a background task that fails, a file that makes it ready."""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
from pydantic_settings import SettingsConfigDict
from slipway.audit.v1 import audit_pb2, audit_pb2_grpc
from slipway_chassis.logs import get_logger
from slipway_chassis.readiness import Readiness
from slipway_chassis.service import run, run_service
from slipway_chassis.settings import CoreSettings, load_settings

_log = get_logger(__name__)


class Settings(CoreSettings):
    """Of the small service."""

    model_config = SettingsConfigDict(env_prefix="SLIPWAY_SMALL_")
    folder: Path


class Audit(audit_pb2_grpc.AuditServiceServicer):
    """Answers when the folder holds a file `go`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def GetCheckpoint(self, request: Any, context: Any) -> audit_pb2.GetCheckpointResponse:
        (self._folder / "called").touch()
        while not (self._folder / "go").exists():  # noqa: ASYNC110 - the test signals by a file
            await asyncio.sleep(0.02)
        return audit_pb2.GetCheckpointResponse(note="done")


async def main() -> None:
    """Serve."""
    settings = load_settings(Settings)

    def servicers(server: grpc.aio.Server) -> Sequence[str]:
        audit_pb2_grpc.add_AuditServiceServicer_to_server(Audit(settings.folder), server)
        return ["slipway.audit.v1.AuditService"]

    async def ready() -> None:
        if not (settings.folder / "ready").exists():
            raise FileNotFoundError("ready")

    async def cached() -> None:
        if (settings.folder / "cache-is-away").exists():
            raise ConnectionError("cache")

    async def flaky() -> None:
        runs = settings.folder / "runs"
        runs.write_text(runs.read_text() + "x" if runs.exists() else "x")
        if len(runs.read_text()) < 3:
            raise ValueError("not yet")
        try:
            await asyncio.Event().wait()
        finally:
            (settings.folder / "background-cancelled").touch()

    async def on_stop() -> None:
        (settings.folder / "stopped").touch()

    await run_service(
        "small",
        settings,
        servicers=servicers,
        background={"flaky": flaky},
        readiness=Readiness({"store": ready}, {"cache": cached}),
        on_stop=on_stop,
    )


if __name__ == "__main__":
    run(main())
    sys.exit(0)
