"""What a connection that was not made says about TLS, as a sentence with the remedy.

gRPC tells it only in the text of the status; texts that say nothing of TLS are nobody's business here.
"""

import re
import ssl
import time
from collections.abc import Callable
from typing import Final

from slipway_chassis.logs import get_logger

_log = get_logger(__name__)
_TELL_EVERY: Final = 30.0  # seconds between lines of the same sentence
_ADDRESS = re.compile(r"(?:ipv4|ipv6|unix):(\S+?): ")
_NOT_MADE = re.compile("failed to connect to all addresses|connections to all backends failing")
_told: dict[tuple[str, str], float] = {}

_SENTENCES: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile("WRONG_VERSION_NUMBER"),
        "it answers without TLS: set its TLS_CERT_FILE, TLS_KEY_FILE and TLS_CA_FILE too, or take away those here",
    ),
    (
        re.compile("Hostname Verification Check failed"),
        "its certificate does not name the host that the target names: issue one whose subject alternative names do",
    ),
    (
        re.compile("CERTIFICATE_VERIFY_FAILED: certificate has expired"),
        "its certificate has ended: put a new one in its TLS_CERT_FILE",
    ),
    (
        re.compile("CERTIFICATE_VERIFY_FAILED"),
        "no authority in TLS_CA_FILE has signed its certificate: both sides need the authority of the other one's",
    ),
    (
        re.compile("(?:Socket closed|Connection reset by peer|handshake failed)"),
        "it ended the connection at once. It takes callers with TLS only (set TLS_CERT_FILE, TLS_KEY_FILE and "
        "TLS_CA_FILE here too), or does not accept the certificate of this service (its standard error says why)",
    ),
)


def tls_failure(details: str) -> str:
    """Why TLS with the other side failed, in a sentence; empty when the text says nothing of it."""
    if not _NOT_MADE.search(details):
        return ""
    return next((sentence for pattern, sentence in _SENTENCES if pattern.search(details)), "")


def tls_reason(error: BaseException) -> str:
    """Why TLS failed, if that is what is behind an error: without addresses and names; empty if it is not."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            # Of a name that does not fit, the message says which.
            return seen.verify_message.partition(",")[0]
        if isinstance(seen, ssl.SSLError) and seen.reason:
            return seen.reason.replace("_", " ").lower()
        seen = seen.__cause__ or seen.__context__
    return ""


def tell_tls_failure(details: str, *, clock: Callable[[], float] = time.monotonic) -> str:
    """The sentence, which is also logged, once in a while for each address."""
    sentence = tls_failure(details)
    if sentence:
        found = _ADDRESS.search(details)
        key = (found[1] if found else "", sentence)
        if clock() - _told.get(key, float("-inf")) >= _TELL_EVERY:
            _told[key] = clock()
            _log.warning("tls.failed", peer=key[0], reason=sentence)
    return sentence
