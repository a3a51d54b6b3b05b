"""The development issuer's process: `python -m slipway_gateway.dev_issuer`."""

import asyncio
import signal
import sys

from slipway_chassis.logs import configure_logging
from slipway_chassis.service import run
from slipway_chassis.settings import load_settings

from slipway_gateway.dev_issuer.app import DevIssuer
from slipway_gateway.dev_issuer.keys import SigningKeys
from slipway_gateway.dev_issuer.settings import DevIssuerSettings
from slipway_gateway.http.server import HttpServer, listen
from slipway_gateway.realm import RealmFile


def main() -> int:
    """Serves until it is told to stop; 2 for settings or files that cannot be used."""
    settings = load_settings(DevIssuerSettings)
    configure_logging("dev-issuer", settings.log_level)
    try:
        listener = listen(settings.listen)
        realm = RealmFile(settings.realm_file)
        keys = SigningKeys(settings.key_dir)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"slipway dev-issuer: {error}\n")
        return 2
    host = settings.listen.rpartition(":")[0]
    issuer = f"http://{host}:{listener.getsockname()[1]}/realms/{realm.current().name}"
    run(_serve(HttpServer(DevIssuer(realm, keys, issuer).app(), listener, grace=2, stopping=asyncio.Event())))
    return 0


async def _serve(http: HttpServer) -> None:
    serving = asyncio.create_task(http.run())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
    await asyncio.gather(serving, return_exceptions=True)


if __name__ == "__main__":
    raise SystemExit(main())
