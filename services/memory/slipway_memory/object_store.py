"""Which store a URL names: a folder (`file:///…`) or a bucket of anything S3-compatible (`s3://…`)."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from obstore.store import LocalStore, S3Store

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config

# The one layer that tries again: no caller of the store does. Downloads go on where they broke off.
_RETRY: RetryConfig = {
    "max_retries": 5,
    "retry_timeout": timedelta(seconds=10),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=2), "base": 2},
}
# A download may take as long as its reader does, as long as each read of it comes: the time-out is per read.
_CONNECT, _READ, _WHOLE = timedelta(seconds=3), timedelta(seconds=15), timedelta(hours=1)
_PARAMETERS = ("endpoint", "region")


def open_store(url: str) -> LocalStore | S3Store:
    """The store behind `url`; nothing is asked of it yet.

    - `file:///folder`: made if missing, readable by the service alone.
    - `s3://[ACCESS_KEY:SECRET_KEY@]BUCKET[/PREFIX][?endpoint=https://HOST:PORT][&region=NAME]`. Without keys,
      endpoint or region, those of the environment are taken (`AWS_ACCESS_KEY_ID`, a role of the pod, …). Special
      characters of keys are percent-encoded.

    Raises ValueError with a sentence that says what is wrong with the URL, without its keys.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        return _folder(parts)
    if parts.scheme == "s3":
        return _bucket(parts)
    raise ValueError("must be file:///folder or s3://bucket")


def _folder(parts: SplitResult) -> LocalStore:
    folder = Path(unquote(parts.path))
    if parts.netloc or not folder.is_absolute() or folder == Path("/"):
        raise ValueError("must be file:/// with the whole path of a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ValueError(f"the folder {folder} can't be made: {error.strerror}") from error
    return LocalStore(folder)


def _bucket(parts: SplitResult) -> S3Store:
    if not parts.hostname or ":" in parts.netloc.rpartition("@")[2]:
        raise ValueError("must name a bucket: s3://BUCKET/PREFIX?endpoint=https://HOST:PORT&region=NAME")
    parameters = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := sorted(parameters.keys() - set(_PARAMETERS)):
        raise ValueError(f"parameter {unknown[0]!r} is none of {', '.join(_PARAMETERS)}")
    config: S3Config = {}
    client: ClientConfig = {"connect_timeout": _CONNECT, "read_timeout": _READ, "timeout": _WHOLE}
    if endpoint := parameters.get("endpoint"):
        address = urlsplit(endpoint)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ValueError("its endpoint must be https://HOST:PORT or http://HOST:PORT")
        config["endpoint"] = endpoint
        client["allow_http"] = address.scheme == "http"
    if region := parameters.get("region"):
        config["region"] = region
    if parts.username or parts.password:
        if not (parts.username and parts.password):
            raise ValueError("must hold both keys or none: s3://ACCESS_KEY:SECRET_KEY@BUCKET")
        config["access_key_id"] = unquote(parts.username)
        config["secret_access_key"] = unquote(parts.password)
    bucket = parts.netloc.rpartition("@")[2]
    prefix = unquote(parts.path).strip("/")
    return S3Store(bucket, prefix=prefix or None, config=config, client_options=client, retry_config=_RETRY)
