"""The catalogue in force, taken up again when its file or the secrets file changes."""

from collections.abc import Mapping
from pathlib import Path

from slipway_chassis.logs import get_logger

from slipway_router import metrics
from slipway_router.catalogue import Catalogue
from slipway_router.catalogue_file import CatalogueInvalid, load
from slipway_router.secrets_file import SecretsInvalid, load_secrets
from slipway_router.wire.pool import WirePool

_log = get_logger(__name__)


class CatalogueSource:
    """Reads the files; an invalid one is refused, and what was in force stays."""

    def __init__(
        self, catalogue_file: Path, secrets_file: Path | None, settings: Mapping[str, str], pool: WirePool
    ) -> None:
        """Load for the first time; raises CatalogueInvalid or SecretsInvalid."""
        self._catalogue_file = catalogue_file
        self._secrets_file = secrets_file
        self._settings = settings
        self._pool = pool
        self._current = self._load()

    def current(self) -> Catalogue:
        """The catalogue in force."""
        return self._current

    async def reload(self) -> bool:
        """Take up the files as they are now; False (and a log line with the place) if they are refused."""
        try:
            loaded = self._load()
        except (CatalogueInvalid, SecretsInvalid) as error:
            metrics.catalogue_refused.inc()
            _log.error("catalogue.refused", error=str(error), in_force=self._current.digest)
            return False
        if loaded != self._current:
            self._current = loaded
            _log.info("catalogue.loaded", digest=loaded.digest, models=len(loaded.models), routes=len(loaded.routes))
        await self._pool.keep(model.provider for model in loaded.models.values())
        return True

    async def watch(self) -> None:
        """Reload at each change, until cancelled. Folders are watched, for editors and Kubernetes replace files."""
        from watchfiles import awatch

        files = [file.absolute() for file in (self._catalogue_file, self._secrets_file) if file is not None]
        # Kubernetes swaps the link `..data` beside the file instead of the file.
        names = {file.name for file in files} | {"..data"}
        async for _ in awatch(
            *{file.parent for file in files},
            recursive=False,
            watch_filter=lambda _change, path: Path(path).name in names,
            rust_timeout=60_000,
        ):
            await self.reload()

    def _load(self) -> Catalogue:
        secrets = load_secrets(self._secrets_file) if self._secrets_file is not None else {}
        return load(self._catalogue_file, settings=self._settings, secrets=secrets)
