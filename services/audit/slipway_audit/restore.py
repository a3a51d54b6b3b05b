"""After a restore from backup: `python -m slipway_audit.restore --tenant TENANT --head FILE`.

A log that was restored is behind heads that were signed before; to go on under the same name would be a second history
under it. So it goes on as a new log: the next generation, whose origin ends in its number, and whose checkpoints name
the old head in an extension line. FILE holds the newest signed head that is known of the old log: a signed note, or the
file `<tenant>.heads.jsonl` of the heads' folder. Run it while the service is stopped, with the service's environment.

`--all` instead makes every log a new one, also those that nothing is known to be missing from: for a new installation
made of a backup, since the old one may have signed more than anybody here knows. The heads that they name are the
newest ones of SLIPWAY_AUDIT_HEADS_DIR, or else of the database.
"""

import argparse
import asyncio
import json
import sys
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict
from slipway_chassis.errors import SlipwayError
from slipway_chassis.postgres import close_pool, open_pool
from slipway_chassis.settings import load_settings
from slipway_evidence.checkpoint import CheckpointError, Head, open_checkpoint, previous_line
from slipway_evidence.note import NoteError, SignatureError, SignerKey

from slipway_audit.checkpoints import log_origin
from slipway_audit.errors import LogEmpty
from slipway_audit.head_store import HeadStore
from slipway_audit.heads_file import HeadsFolder
from slipway_audit.key_ring import KeyRing
from slipway_audit.keys import KeyFileInvalid
from slipway_audit.migrate import SCHEMA


class Settings(BaseSettings):
    """What is needed of the service's environment."""

    model_config = SettingsConfigDict(env_prefix="SLIPWAY_AUDIT_", extra="ignore")

    database_url: SecretStr = Field(description="postgresql:// URL of the service's own database")
    signing_key_file: Path = Field(description="the log's signing key")
    heads_dir: Path = Field(description="folder where every signed head is written")


class RestoreRefused(Exception):
    """The log cannot be continued under the head given; the message says why."""


async def renew_all(store: HeadStore, keys: KeyRing, heads: HeadsFolder) -> list[str]:
    """Begin the next generation of every log; returns their origins. Raises RestoreRefused."""
    origins: list[str] = []
    for tenant in await store.tenants():
        async with store.signing(tenant) as signing:
            if signing is None:
                continue
            note = heads.last(tenant) or (signing.last and signing.last.note)
            if not note:
                continue  # Nothing was ever signed: there is no other history.
            head = _open(note, keys, f"the newest head of {tenant}")
            origin = log_origin(keys.current().name, tenant, signing.log.generation)
            if head.origin != origin:
                raise RestoreRefused(f"the head of {tenant} is one of {head.origin}, the log is {origin}")
            await signing.begin_generation(previous_line(head))
            origins.append(log_origin(keys.current().name, tenant, signing.log.generation))
    return origins


async def restore(store: HeadStore, key: SignerKey, tenant: str, head: Head) -> str:
    """Begin the next generation of a tenant's log; returns its origin. Raises RestoreRefused, LogEmpty."""
    async with store.signing(tenant) as signing:
        if signing is None:
            raise LogEmpty(f"there is no log of {tenant}")
        origin = log_origin(key.verifier.name, tenant, signing.log.generation)
        if head.origin != origin:
            raise RestoreRefused(f"the head is one of {head.origin}, the log is {origin}")
        if head.size <= signing.log.size and await signing.root(head.size) == head.root:
            raise RestoreRefused("the log holds all leaves of that head: it can go on as it is")
        await signing.begin_generation(previous_line(head))
        return log_origin(key.verifier.name, tenant, signing.log.generation)


def read_head(file: Path, keys: KeyRing) -> Head:
    """The newest head in a file. Raises RestoreRefused, OSError."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".jsonl":
        text = json.loads(text.strip().rsplit("\n", 1)[-1])["note"]
    return _open(text, keys, str(file))


def _open(note: str, keys: KeyRing, what: str) -> Head:
    try:
        return open_checkpoint(note, keys.verifier(note)).head
    except (NoteError, SignatureError, CheckpointError) as error:
        raise RestoreRefused(f"{what} holds no head signed by this key: {error}") from None


async def _main(settings: Settings, tenant: str | None, file: Path | None) -> list[str]:
    keys = KeyRing(settings.signing_key_file)
    pool = await open_pool(settings.database_url.get_secret_value())
    try:
        await SCHEMA.apply(pool)
        store = HeadStore(pool)
        if tenant is None or file is None:
            return await renew_all(store, keys, HeadsFolder(settings.heads_dir))
        return [await restore(store, keys.current(), tenant, read_head(file, keys))]
    finally:
        await close_pool(pool)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m slipway_audit.restore", description="Continue a restored log.")
    parser.add_argument("--all", action="store_true", help="every log, under the newest heads of the heads' folder")
    parser.add_argument("--tenant")
    parser.add_argument("--head", type=Path, metavar="FILE", help="newest signed head of the old log")
    arguments = parser.parse_args()
    if arguments.all == bool(arguments.tenant or arguments.head) or bool(arguments.tenant) != bool(arguments.head):
        parser.error("give --all, or --tenant and --head")
    try:
        origins = asyncio.run(_main(load_settings(Settings), arguments.tenant, arguments.head))
    except (RestoreRefused, KeyFileInvalid, SlipwayError, OSError, ValueError, KeyError) as error:
        sys.stderr.write(f"slipway: {error}\n")
        return 2
    for origin in origins:
        sys.stdout.write(f"the log goes on as {origin}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
