"""The catalogue in force, taken up again when its file, the secrets file or a key file changes."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from slipway_chassis.logs import get_logger

from slipway_router import metrics
from slipway_router.catalogue import Catalogue
from slipway_router.catalogue_file import CatalogueInvalid, load
from slipway_router.catalogue_resolve import References
from slipway_router.secrets_file import SecretsInvalid, load_secrets

_log = get_logger(__name__)
_LOOK_AGAIN_MS = 5000
"""A refused file is read again so often: what it refers to may be there by then."""

Hook = Callable[[Catalogue], Awaitable[None]]


class CatalogueSource:
    """Reads the files; an invalid one is refused, and what was in force stays."""

    def __init__(self, catalogue_file: Path, secrets_file: Path | None, refers_to: References) -> None:
        """Load for the first time; raises CatalogueInvalid or SecretsInvalid. `refers_to` without secrets: they are
        read from `secrets_file` at each load."""
        self._catalogue_file = catalogue_file
        self._secrets_file = secrets_file
        self._refers_to = refers_to
        self._refused = ""
        self._current = self._load()

    def current(self) -> Catalogue:
        """The catalogue in force."""
        return self._current

    async def reload(self, prepare: Hook, loaded: Hook) -> bool:
        """Take up the files as they are now; False (and a log line with the place) if they are refused.

        `prepare` runs before the new catalogue is in force, `loaded` after that.
        """
        try:
            # A large file takes parsing: requests go on meanwhile.
            catalogue = await asyncio.to_thread(self._load)
        except (CatalogueInvalid, SecretsInvalid) as error:
            if str(error) != self._refused:
                self._refused = str(error)
                metrics.catalogue_refused.inc()
                _log.error("catalogue.refused", error=self._refused, in_force=self._current.digest)
            return False
        self._refused = ""
        await prepare(catalogue)
        if catalogue != self._current:
            self._current = catalogue
            _log.info(
                "catalogue.loaded",
                digest=catalogue.digest,
                models=len(catalogue.models),
                routes=len(catalogue.routes),
            )
        await loaded(catalogue)
        return True

    async def watch(self, prepare: Hook, loaded: Hook) -> None:
        """Reload at each change, until cancelled. Folders are watched, for editors and Kubernetes replace files."""
        while True:
            await self._watch_files(self._files(), prepare, loaded)

    async def _watch_files(self, files: frozenset[Path], prepare: Hook, loaded: Hook) -> None:
        from watchfiles import awatch

        # Kubernetes swaps the link `..data` beside the files instead of the files.
        names = {file.name for file in files} | {"..data"}
        async for changes in awatch(
            *{file.parent for file in files if file.parent.is_dir()},
            recursive=False,
            watch_filter=lambda _change, path: Path(path).name in names,
            rust_timeout=_LOOK_AGAIN_MS,
            yield_on_timeout=True,
        ):
            if changes or self._refused:
                await self.reload(prepare, loaded)
            if self._files() != files:
                return

    def _files(self) -> frozenset[Path]:
        files = [self._catalogue_file.absolute(), *self._current.key_files]
        if self._secrets_file is not None:
            files.append(self._secrets_file.absolute())
        return frozenset(files)

    def _load(self) -> Catalogue:
        secrets = load_secrets(self._secrets_file) if self._secrets_file is not None else {}
        return load(self._catalogue_file, replace(self._refers_to, secrets=secrets))
