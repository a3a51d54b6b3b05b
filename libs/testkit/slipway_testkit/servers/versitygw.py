"""An S3-compatible object store: versitygw (Go), over a folder."""

import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from slipway_testkit.certificates import Issued
from slipway_testkit.servers.process import ServerProcess, accepts_connections, free_port
from slipway_testkit.servers.programs import program

_REGION = "us-east-1"


@dataclass
class S3Server:
    """A running S3 server on 127.0.0.1 whose objects survive a restart."""

    process: ServerProcess
    port: int
    buckets: Path
    access_key: str
    secret_key: str
    scheme: str = "http"

    @property
    def endpoint(self) -> str:
        """Address of the API."""
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def url(
        self, bucket: str, *, access_key: str | None = None, secret_key: str | None = None, port: int | None = None
    ) -> str:
        """URL of a bucket, as memory's setting OBJECTS_URL takes it; with another key or port: a wrong one."""
        keys = f"{access_key or self.access_key}:{secret_key or self.secret_key}"
        return f"s3://{keys}@{bucket}?endpoint={self.scheme}://127.0.0.1:{port or self.port}&region={_REGION}"

    def create_bucket(self) -> str:
        """Creates an empty bucket; returns its name."""
        name = f"test-{secrets.token_hex(6)}"
        (self.buckets / name).mkdir()
        return name

    def create_user(self, access_key: str, secret_key: str) -> None:
        """A second pair of keys, which may use all buckets."""
        self._admin("create-user", "--access", access_key, "--secret", secret_key, "--role", "admin")

    def delete_user(self, access_key: str) -> None:
        """Ends a pair of keys."""
        self._admin("delete-user", "--access", access_key)

    def _admin(self, *arguments: str) -> None:
        keys = ["--access", self.access_key, "--secret", self.secret_key, "--region", _REGION]
        command = [self.process.command[0], "admin", *keys, "--endpoint-url", self.endpoint, *arguments]
        subprocess.run(command, capture_output=True, check=True, timeout=30)

    def start(self) -> None:
        """Starts the server and waits for its port."""
        self.process.start(lambda: accepts_connections(self.port), timeout=30)

    def start_if_stopped(self) -> None:
        """For the end of a test that stops the server, and may have failed in between."""
        if not self.process.running:
            self.start()

    def stop(self, *, crash: bool = False) -> None:
        """Stops the server; `crash`: by SIGKILL."""
        self.process.stop(crash=crash)


@contextmanager
def versitygw(certificate: Issued | None = None) -> Generator[S3Server]:
    """versitygw over a temporary folder; with a certificate over TLS. ServerUnavailable when it is not installed."""
    binary = program("versitygw")
    folder = Path(tempfile.mkdtemp(prefix="slipway-s3-"))
    port, access_key, secret_key = free_port(), "testkit", secrets.token_hex(16)
    buckets = folder / "buckets"
    buckets.mkdir()
    # Metadata beside the objects: not every file system of a build machine has extended attributes.
    sidecar = folder / "metadata"
    sidecar.mkdir()
    users = folder / "users"
    users.mkdir()
    command = [str(binary), "--port", f"127.0.0.1:{port}", "--region", _REGION, "--quiet", "--iam-dir", str(users)]
    if certificate is not None:
        command += ["--cert", str(certificate.certificate), "--key", str(certificate.key)]
    process = ServerProcess(
        "versitygw",
        [*command, "posix", "--sidecar", str(sidecar), str(buckets)],
        folder / "server.log",
        env={"ROOT_ACCESS_KEY": access_key, "ROOT_SECRET_KEY": secret_key},
    )
    server = S3Server(process, port, buckets, access_key, secret_key, "https" if certificate else "http")
    try:
        server.start()
        yield server
    finally:
        process.stop()
        shutil.rmtree(folder, ignore_errors=True)
