"""What `helm test` runs in the image of the command line: does the release answer, and are all of its parts there?"""

import json
import sys
import time
import urllib.error
import urllib.request

PATIENCE = 120.0  # seconds; a release that was just installed is still finding its peers


def ask(url: str) -> tuple[int, str]:
    """Status and body; status 0 for no answer."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - the address of the release
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def faults(gateway: str) -> list[str]:
    """What is wrong now, in sentences."""
    status, body = ask(f"{gateway}/readyz")
    if status == 0:
        return [f"{gateway} does not answer: {body}"]
    try:
        told = json.loads(body)
    except ValueError:
        return [f"{gateway}/readyz answered {status} without JSON"]
    found = [f"{name} is away: {why}" for part in ("missing", "degraded") for name, why in told.get(part, {}).items()]
    if status != 200 and not found:
        found = [f"{gateway}/readyz answered {status}: {body[:200]}"]
    status, _ = ask(f"{gateway}/v1/models")
    if status != 401:
        found.append(f"a request without a token was answered with {status}, not 401")
    return found


def main() -> int:
    """0 when nothing is wrong within PATIENCE."""
    gateway, ends = sys.argv[1], time.monotonic() + PATIENCE
    while (found := faults(gateway)) and time.monotonic() < ends:
        time.sleep(2)
    told = found or ["the gateway and all services behind it answer; a request without a token is refused"]
    sys.stdout.write("\n".join(told) + "\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
