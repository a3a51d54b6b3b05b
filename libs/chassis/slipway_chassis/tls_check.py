"""Are the files that settings of TLS name fit for it? `python -m slipway_chassis.tls_check SLIPWAY_ROUTER_TLS_`.

The argument is what the settings' names begin with. Prints `{"ends": …, "left": seconds, "lifetime": seconds}`, or a
sentence with exit code 1.
"""

import json
import os
import sys
from pathlib import Path

from slipway_chassis.tls import CertificateFiles, TlsInvalid, read_files


def main(settings: str) -> int:
    """Look once."""
    named = {name: os.environ.get(f"{settings}{name}_FILE", "") for name in ("CERT", "KEY", "CA")}
    # The HTTP API's certificate is its server's alone.
    needed = ("CERT", "KEY") if settings.endswith("_HTTP_TLS_") else ("CERT", "KEY", "CA")
    for name in needed:
        if not named[name]:
            sys.stdout.write(f"{settings}{name}_FILE is not set\n")
            return 1
    authority = Path(named["CA"]) if "CA" in needed else None
    try:
        material = read_files(CertificateFiles(settings, Path(named["CERT"]), Path(named["KEY"]), authority))
    except TlsInvalid as error:
        sys.stdout.write(f"{error}\n")
        return 1
    told = {"ends": material.ends.isoformat(), "left": material.seconds_left, "lifetime": material.lifetime}
    sys.stdout.write(f"{json.dumps(told)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
