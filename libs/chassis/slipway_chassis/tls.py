"""Certificates of a process, and TLS with them: mutual between services, and the server's alone for HTTP.

Files are PEM, as cert-manager mounts them: ``tls.crt`` (the certificate, then those between it and the authority),
``tls.key``, ``ca.crt`` (one authority or several). They are looked at again while connections are made: new ones are
taken up by new connections, without a restart, and connections that are open stay. Files that cannot be used are
refused at the start, and later logged, and those before them stay in force.
"""

import os
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, cast

import grpc
from cryptography import x509
from prometheus_client import Gauge

from slipway_chassis import telemetry
from slipway_chassis.logs import get_logger
from slipway_chassis.private_file import is_private
from slipway_chassis.unusable import SettingUnusable

_log = get_logger(__name__)
_seconds_left = Gauge(
    "slipway_tls_certificate_seconds_left",
    "Seconds until the certificate in use ends, by what it is used for",
    ["use"],
    registry=telemetry.registry,
)
_lifetime = Gauge(
    "slipway_tls_certificate_lifetime_seconds",
    "Seconds from the beginning to the end of the certificate in use",
    ["use"],
    registry=telemetry.registry,
)
_LOOK_EVERY: Final = 5.0  # seconds between looks at the files
_READS: Final = 3  # how often files are read that change meanwhile

Stamp = tuple[tuple[int, int, int], ...]


class TlsInvalid(SettingUnusable):
    """The files cannot be used; the message names the setting and the remedy."""


@dataclass(frozen=True)
class CertificateFiles:
    """Where certificate, key and authorities are, and what the settings that say so begin with."""

    settings: str
    certificate: Path
    key: Path
    authority: Path | None = None

    def stamp(self) -> Stamp:
        """What tells that a file has changed. Raises OSError."""
        paths = [path for path in (self.certificate, self.key, self.authority) if path is not None]
        return tuple((info.st_ino, info.st_size, info.st_mtime_ns) for info in (path.stat() for path in paths))


@dataclass(frozen=True, eq=False)
class Material:
    """What the files held at one moment, and contexts with it."""

    certificate: bytes
    key: bytes
    authority: bytes
    begins: datetime
    ends: datetime
    server: ssl.SSLContext
    client: ssl.SSLContext

    @property
    def seconds_left(self) -> float:
        """Seconds until the certificate ends; less than 0: it has."""
        return (self.ends - datetime.now(UTC)).total_seconds()

    @property
    def lifetime(self) -> float:
        """Seconds from the certificate's beginning to its end."""
        return (self.ends - self.begins).total_seconds()


class Certificates:
    """The certificate in use. Safe in threads: gRPC asks for it in its own."""

    def __init__(self, use: str, files: CertificateFiles) -> None:
        """Reads the files. ``use`` is for logs and metrics. Raises TlsInvalid."""
        self._use = use
        self._files = files
        self._lock = threading.Lock()
        self._looked = time.monotonic()
        self._stamp, self._material = _read(files)
        self._listener = _server_context(files, mutual=files.authority is not None)
        # The contexts of connections are those of the files as they are at the handshake. It is called for callers
        # that name no server, too.
        self._listener.sni_callback = self._take_current
        _seconds_left.labels(use).set_function(lambda: self.current().seconds_left)
        _lifetime.labels(use).set_function(lambda: self._material.lifetime)

    def current(self) -> Material:
        """What to use for a new connection."""
        if time.monotonic() - self._looked >= _LOOK_EVERY and self._lock.acquire(blocking=False):
            try:
                self._look()
            finally:
                self._lock.release()
        return self._material

    @property
    def listener(self) -> ssl.SSLContext:
        """A server's context; connections follow the files."""
        return self._listener

    def _look(self) -> None:
        self._looked = time.monotonic()
        try:
            if self._files.stamp() == self._stamp:
                return
            self._stamp, self._material = _read(self._files)
        except (OSError, TlsInvalid) as error:
            _log.error("tls.refused", use=self._use, error=str(error))
        else:
            _log.info("tls.loaded", use=self._use, ends=self._material.ends.isoformat())

    def _take_current(self, connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _old: ssl.SSLContext) -> None:
        connection.context = self.current().server


class ServiceTls(Certificates):
    """Mutual TLS between services: both sides show a certificate of an authority that the other one trusts."""

    def __init__(self, files: CertificateFiles) -> None:
        """Reads the files. Raises TlsInvalid."""
        super().__init__("services", files)
        self._served = self.current()

    def server_credentials(self) -> grpc.ServerCredentials:
        """Credentials of a gRPC server that demands a certificate of its callers."""
        # gRPC takes None for "no change"; its stubs do not know.
        fetch = cast("Callable[[], grpc.ServerCertificateConfiguration]", self._changed)
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self._served), fetch, require_client_authentication=True
        )

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        """For a new connection: what it is to use, if that is not what the last one used."""
        material = self.current()
        if material is self._served:
            return None
        self._served = material
        return _configuration(material)


def channel_credentials(material: Material) -> grpc.ChannelCredentials:
    """Credentials of a gRPC client."""
    return grpc.ssl_channel_credentials(material.authority, material.key, material.certificate)


def host_of(target: str) -> str:
    """The host that a gRPC target names, which its server's certificate must name; of several addresses the last."""
    authority = target.rpartition("/")[2].rpartition(",")[2].removeprefix("ipv4:").removeprefix("ipv6:")
    return (authority.rpartition(":")[0] or authority).strip("[]")


def _configuration(material: Material) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(material.key, material.certificate)], material.authority)


def read_files(files: CertificateFiles) -> Material:
    """What the files hold now. Raises TlsInvalid."""
    return _read(files)[1]


def _read(files: CertificateFiles) -> tuple[Stamp, Material]:
    """The files, all of one moment. Raises TlsInvalid."""
    for _ in range(_READS):
        parts = _bytes_of(files)
        stamp = files.stamp()
        try:
            material = _material(files, *parts)
        except TlsInvalid:
            if files.stamp() == stamp:
                raise
        else:
            if files.stamp() == stamp and _bytes_of(files) == parts:
                return stamp, material
    raise TlsInvalid(f"{files.settings}CERT_FILE, KEY_FILE and CA_FILE change while they are read")


def _bytes_of(files: CertificateFiles) -> tuple[bytes, bytes, bytes]:
    return (
        _open(f"{files.settings}CERT_FILE", files.certificate),
        _open(f"{files.settings}KEY_FILE", files.key, secret=True),
        _open(f"{files.settings}CA_FILE", files.authority) if files.authority else b"",
    )


def _open(setting: str, path: Path, *, secret: bool = False) -> bytes:
    try:
        with path.open("rb") as file:
            if secret and not is_private(os.fstat(file.fileno())):
                raise TlsInvalid(f"{setting}: {path} can be read by others: chmod 600 it")
            return file.read()
    except OSError as error:
        raise TlsInvalid(f"{setting}: {path} cannot be read: {error.strerror}") from error


def _material(files: CertificateFiles, certificate: bytes, key: bytes, authority: bytes) -> Material:
    own = f"{files.settings}CERT_FILE"
    try:
        leaf = x509.load_pem_x509_certificate(certificate)
    except ValueError as error:
        raise TlsInvalid(f"{own}: {files.certificate} holds no certificate in PEM") from error
    begins, ends, now = leaf.not_valid_before_utc, leaf.not_valid_after_utc, datetime.now(UTC)
    if ends <= now:
        raise TlsInvalid(f"{own}: the certificate ended on {ends:%Y-%m-%d %H:%M} UTC: put a new one there")
    if begins > now:
        raise TlsInvalid(
            f"{own}: the certificate begins on {begins:%Y-%m-%d %H:%M} UTC: set the clock right, or wait until then"
        )
    mutual = files.authority is not None
    server, client = _server_context(files, mutual=mutual), _client_context(files, mutual=mutual)
    if mutual:
        checked = _client_context(files, mutual=True)
        checked.check_hostname = False
        _meet(files, server, checked)
    return Material(certificate, key, authority, begins, ends, server, client)


def _server_context(files: CertificateFiles, *, mutual: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if mutual:
        # Both sides are ours. A session that is resumed would not show its certificate again.
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.num_tickets = 0
        context.verify_mode = ssl.CERT_REQUIRED
        _trust(context, files)
    else:
        context.set_alpn_protocols(["http/1.1"])
    _show(context, files)
    return context


def _client_context(files: CertificateFiles, *, mutual: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if mutual:
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        _trust(context, files)
        _show(context, files)
    return context


def _show(context: ssl.SSLContext, files: CertificateFiles) -> None:
    """Give the context its own certificate."""
    try:
        # Without a password the library would ask for one at the terminal.
        context.load_cert_chain(files.certificate, files.key, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise TlsInvalid(
                f"{files.settings}KEY_FILE: {files.key} is not the key of the certificate in "
                f"{files.settings}CERT_FILE: both must be of one issue"
            ) from error
        raise TlsInvalid(
            f"{files.settings}KEY_FILE: {files.key} holds no key in PEM without a password ({error.reason})"
        ) from error
    except OSError as error:
        raise TlsInvalid(f"{files.settings}KEY_FILE: {files.key} cannot be read: {error.strerror}") from error


def _trust(context: ssl.SSLContext, files: CertificateFiles) -> None:
    try:
        context.load_verify_locations(files.authority)
    except ssl.SSLError as error:
        raise TlsInvalid(f"{files.settings}CA_FILE: {files.authority} holds no certificate in PEM") from error
    except OSError as error:
        raise TlsInvalid(f"{files.settings}CA_FILE: {files.authority} cannot be read: {error.strerror}") from error


def _meet(files: CertificateFiles, server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    """Let two sides with these files meet in memory: what one would not accept of the other is told now."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [client.wrap_bio(to_client, to_server), server.wrap_bio(to_server, to_client, server_side=True)]
    while sides:
        for side in list(sides):
            try:
                side.do_handshake()
                sides.remove(side)
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLCertVerificationError as error:
                raise TlsInvalid(
                    f"{files.settings}CERT_FILE: no service with the authorities of {files.settings}CA_FILE accepts "
                    f"this certificate ({error.verify_message}): it must be signed by one of them, for the use as "
                    "server and as client"
                ) from error
            except ssl.SSLError as error:
                raise TlsInvalid(f"{files.settings}CERT_FILE cannot be used for TLS ({error.reason})") from error
