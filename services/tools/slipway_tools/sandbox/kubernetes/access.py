"""Where the cluster's API is, and who we are there: a pod's service account, or a kubeconfig."""

import base64
import binascii
import os
import ssl
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError

from slipway_tools.sandbox.errors import SandboxUnavailable

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True)
class Access:
    """`token` is asked for every request: those of service accounts are replaced while we run."""

    server: str
    tls: ssl.SSLContext
    token: Callable[[], str | None]

    def headers(self) -> dict[str, str]:
        """Who we are, for a request."""
        token = self.token()
        return {} if token is None else {"Authorization": f"Bearer {token}"}


def of_service_account(folder: Path = _ACCOUNT, environment: Mapping[str, str] = os.environ) -> Access:
    """The access of this pod's service account; raises SandboxUnavailable outside of a pod that has one."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT", "443")
    if not host or not (folder / "token").is_file():
        raise SandboxUnavailable(
            "SLIPWAY_TOOLS_SANDBOX is kubernetes, but this process is in no pod with a service-account token:"
            " mount one (automountServiceAccountToken), or name a file in SLIPWAY_TOOLS_SANDBOX_KUBECONFIG"
        )
    tls = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    return Access(
        f"https://{f'[{host}]' if ':' in host else host}:{port}", tls, lambda: (folder / "token").read_text().strip()
    )


def of_kubeconfig(path: Path) -> Access:
    """The access of a kubeconfig's current context, by a token or a client certificate.

    Raises:
        SandboxUnavailable: the file can't be read, or names a way of signing in that is not known here.
    """
    try:
        document: Any = YAML(typ="safe").load(path.read_text())
        context = _named(document, "contexts", document["current-context"])["context"]
        cluster: dict[str, Any] = _named(document, "clusters", context["cluster"])["cluster"]
        user: dict[str, Any] = _named(document, "users", context["user"])["user"]
        tls = ssl.create_default_context(cadata=_content(path, cluster, "certificate-authority"))
        _take_certificate(tls, path, user)
        token_file: str | None = user.get("tokenFile")
        token: str | None = user.get("token")
        if {"exec", "auth-provider", "username"} & user.keys():
            raise ValueError("users sign in by token, tokenFile or client certificate here")
        if token_file is not None:
            return Access(cluster["server"], tls, lambda: (path.parent / token_file).read_text().strip())
        return Access(cluster["server"], tls, lambda: token)
    except (
        OSError,
        YAMLError,
        AttributeError,
        KeyError,
        TypeError,
        StopIteration,
        ValueError,
        binascii.Error,
    ) as error:
        raise SandboxUnavailable(
            f"SLIPWAY_TOOLS_SANDBOX_KUBECONFIG: {path} can't be used: {type(error).__name__}: {error}"
        ) from error


def _named(document: Any, kind: str, name: str) -> Any:
    return next(entry for entry in document[kind] if entry["name"] == name)


def _content(config: Path, entry: dict[str, Any], name: str) -> str | None:
    """What an entry gives in itself (`…-data`) or by the name of a file."""
    if f"{name}-data" in entry:
        return base64.b64decode(entry[f"{name}-data"]).decode()
    return (config.parent / entry[name]).read_text() if name in entry else None


def _take_certificate(tls: ssl.SSLContext, config: Path, user: dict[str, Any]) -> None:
    certificate, key = (_content(config, user, name) for name in ("client-certificate", "client-key"))
    if certificate is None or key is None:
        return
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:  # 0600; the ssl module reads files only
        file.write(f"{certificate}\n{key}")
        file.flush()
        tls.load_cert_chain(file.name)
