"""After a restore from backup: `python -m slipway_audit.restore --tenant TENANT --head FILE`.

A log that was restored is behind heads that were signed before; to go on under the same name would be a second history
under it. So it goes on as a new log: the next generation, whose origin ends in its number, and whose checkpoints name
the old head in an extension line. FILE holds the newest signed head that is known of the old log: a signed note, or the
file `<tenant>.heads.jsonl` of the heads' folder. Run it while the service is stopped, with the service's environment.
"""

import argparse
import asyncio
import json
import sys
from pathlib import Path

from slipway_chassis.errors import SlipwayError
from slipway_chassis.postgres import close_pool, open_pool
from slipway_chassis.settings import load_settings
from slipway_evidence.checkpoint import CheckpointError, Head, open_checkpoint, previous_line
from slipway_evidence.note import NoteError, SignatureError, SignerKey

from slipway_audit.checkpoints import log_origin
from slipway_audit.errors import LogEmpty
from slipway_audit.head_store import HeadStore
from slipway_audit.keys import KeyFileInvalid, load
from slipway_audit.migrate import SCHEMA
from slipway_audit.settings import AuditSettings


class RestoreRefused(Exception):
    """The log cannot be continued under the head given; the message says why."""


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
        return log_origin(key.verifier.name, tenant, signing.log.generation + 1)


def read_head(file: Path, key: SignerKey) -> Head:
    """The newest head in a file. Raises RestoreRefused, OSError."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".jsonl":
        text = json.loads(text.strip().rsplit("\n", 1)[-1])["note"]
    try:
        return open_checkpoint(text, key.verifier).head
    except (NoteError, SignatureError, CheckpointError) as error:
        raise RestoreRefused(f"{file} holds no head signed by this key: {error}") from None


async def _main(settings: AuditSettings, tenant: str, file: Path) -> str:
    key = load(settings.signing_key_file)
    pool = await open_pool(settings.database_url.get_secret_value())
    try:
        await SCHEMA.apply(pool)
        return await restore(HeadStore(pool), key, tenant, read_head(file, key))
    finally:
        await close_pool(pool)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m slipway_audit.restore", description="Continue a restored log.")
    parser.add_argument("--tenant", required=True)
    parser.add_argument("--head", required=True, type=Path, metavar="FILE", help="newest signed head of the old log")
    arguments = parser.parse_args()
    try:
        origin = asyncio.run(_main(load_settings(AuditSettings), arguments.tenant, arguments.head))
    except (RestoreRefused, KeyFileInvalid, SlipwayError, OSError, ValueError, KeyError) as error:
        sys.stderr.write(f"slipway: {error}\n")
        return 2
    sys.stdout.write(f"the log goes on as {origin}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
