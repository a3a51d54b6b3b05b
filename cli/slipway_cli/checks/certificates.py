"""Certificates that settings in the environment name: are they fit for TLS, and for how long?"""

import asyncio
import json
from collections.abc import Mapping

from slipway_cli.checks.finding import Finding
from slipway_cli.checks.machine import ask

_SETTINGS = ("CERT_FILE", "KEY_FILE", "CA_FILE")
_DAY = 86_400
_LITTLE = 0.2  # of its life: whoever renews certificates does so before


async def check_certificates(environment: Mapping[str, str]) -> list[Finding]:
    """One finding for each service whose `SLIPWAY_<SERVICE>_[HTTP_]TLS_…` settings are there; none without TLS."""
    prefixes = sorted(
        {
            name.removesuffix(setting)
            for name in environment
            for setting in _SETTINGS
            if name.startswith("SLIPWAY_") and name.endswith(f"_TLS_{setting}")
        }
    )
    asked = await asyncio.gather(*(ask("slipway_chassis.tls_check", prefix) for prefix in prefixes))
    return [_finding(prefix, *answer) for prefix, answer in zip(prefixes, asked, strict=True)]


def _finding(prefix: str, well: bool, said: str) -> Finding:
    name = prefix.removeprefix("SLIPWAY_").removesuffix("_TLS_").lower().replace("_", " ")
    if not well:
        return Finding("fail", "tls", said or name, "")
    told = json.loads(said)
    text = f"the certificate of {name} is good until {told['ends'][:16].replace('T', ' ')} UTC"
    if told["left"] < _LITTLE * told["lifetime"]:
        return Finding(
            "warn", "tls", f"{text}, for {told['left'] / _DAY:.1f} days", f"put a new one into {prefix}CERT_FILE"
        )
    return Finding("ok", "tls", text)
