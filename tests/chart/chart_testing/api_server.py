"""An API server that knows objects and their kinds, and answers reads: what Helm asks while it renders."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import yaml

# Kind: API version, plural, and whether it lies in a namespace.
KINDS = {
    "ConfigMap": ("v1", "configmaps", True),
    "Namespace": ("v1", "namespaces", False),
    "PersistentVolumeClaim": ("v1", "persistentvolumeclaims", True),
    "Secret": ("v1", "secrets", True),
    "ServiceAccount": ("v1", "serviceaccounts", True),
    "Deployment": ("apps/v1", "deployments", True),
    "PriorityClass": ("scheduling.k8s.io/v1", "priorityclasses", False),
    "RuntimeClass": ("node.k8s.io/v1", "runtimeclasses", False),
    "StorageClass": ("storage.k8s.io/v1", "storageclasses", False),
    "IngressClass": ("networking.k8s.io/v1", "ingressclasses", False),
}


def _path(version: str) -> str:
    return f"/api/{version}" if version == "v1" else f"/apis/{version}"


class ApiServer(ThreadingHTTPServer):
    """Holds objects by the path at which they are read."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.found: dict[str, Any] = {}
        for version in {version for version, _, _ in KINDS.values()}:
            resources = [
                {"name": plural, "singularName": kind.lower(), "namespaced": namespaced, "kind": kind, "verbs": ["get"]}
                for kind, (of, plural, namespaced) in KINDS.items()
                if of == version
            ]
            self.found[_path(version)] = {"kind": "APIResourceList", "groupVersion": version, "resources": resources}

    def put(self, kind: str, name: str, **content: Any) -> None:
        """Put an object, into the namespace `team` if its kind lies in one."""
        version, plural, namespaced = KINDS[kind]
        metadata = {"name": name, **content.pop("metadata", {})}
        place = f"{_path(version)}/namespaces/team/{plural}" if namespaced else f"{_path(version)}/{plural}"
        self.found[f"{place}/{name}"] = {"apiVersion": version, "kind": kind, "metadata": metadata, **content}


class _Handler(BaseHTTPRequestHandler):
    server: ApiServer  # pyright: ignore[reportIncompatibleVariableOverride] - the one that starts it

    def do_GET(self) -> None:
        found = self.server.found.get(self.path.partition("?")[0])
        missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
        body = json.dumps(found or missing).encode()
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's own name
        """Nothing."""


@contextmanager
def serving(kubeconfig: Path) -> Iterator[ApiServer]:
    """A server while the block lasts, and a kubeconfig that leads to it."""
    server = ApiServer()
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    context = {"cluster": "fake", "user": "fake"}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "fake",
        "clusters": [{"name": "fake", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "fake", "user": {}}],
        "contexts": [{"name": "fake", "context": context}],
    }
    kubeconfig.write_text(yaml.safe_dump(content))
    kubeconfig.chmod(0o600)
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
