"""The development issuer's process: `python -m slipway_gateway.dev_issuer`."""

import sys

import uvicorn
from slipway_chassis.logs import configure_logging
from slipway_chassis.settings import load_settings

from slipway_gateway.dev_issuer.app import DevIssuer
from slipway_gateway.dev_issuer.keys import open_key
from slipway_gateway.dev_issuer.settings import DevIssuerSettings
from slipway_gateway.http.protocol import BoundedHttpProtocol
from slipway_gateway.http.server import listen
from slipway_gateway.realm import RealmFile


def main() -> int:
    """Serves until it is told to stop; 2 for settings or files that cannot be used."""
    settings = load_settings(DevIssuerSettings)
    configure_logging("dev-issuer", settings.log_level)
    try:
        listener = listen(settings.listen)
        realm = RealmFile(settings.realm_file)
        key = open_key(settings.key_dir)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"slipway dev-issuer: {error}\n")
        return 2
    host = settings.listen.rpartition(":")[0]
    issuer = f"http://{host}:{listener.getsockname()[1]}/realms/{realm.current().name}"
    config = uvicorn.Config(
        DevIssuer(realm, key, issuer).app(),
        http=BoundedHttpProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=2,
    )
    uvicorn.Server(config).run(sockets=[listener])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
