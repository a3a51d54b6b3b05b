"""Tells whether a catalogue can be used: `python -m slipway_router.catalogue_check FILE [SECRETS_FILE]`.

Reads the file as the service does and resolves what it refers to. Exits with 0 and says what is in it, or with 1 and
one sentence that names the line that is wrong.
"""

import os
import sys
from pathlib import Path

from slipway_router.catalogue_file import CatalogueInvalid
from slipway_router.catalogue_resolve import References
from slipway_router.catalogue_source import CatalogueSource
from slipway_router.secrets_file import SecretsInvalid


def main(arguments: list[str]) -> int:
    """Check and answer with the exit status."""
    if len(arguments) not in (1, 2):
        sys.stderr.write("usage: python -m slipway_router.catalogue_check FILE [SECRETS_FILE]\n")
        return 2
    secrets = Path(arguments[1]) if len(arguments) > 1 else None
    # Where the stack's own models listen is known when it runs; whether litellm is there, is the service's setting.
    settings = {"local_models_url": os.environ.get("SLIPWAY_ROUTER_LOCAL_MODELS_URL") or "http://127.0.0.1:1/v1"}
    refers_to = References(settings=settings, secrets={}, environment=os.environ, litellm=True)
    try:
        catalogue = CatalogueSource(Path(arguments[0]), secrets, refers_to).current()
    except (CatalogueInvalid, SecretsInvalid) as error:
        sys.stdout.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{len(catalogue.models)} models, {len(catalogue.routes)} routes\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
