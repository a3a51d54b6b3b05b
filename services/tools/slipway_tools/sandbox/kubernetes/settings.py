"""Where the pods of sandboxes run."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PodSettings:
    """Where pods run: `kubeconfig` None is this pod's own service account; `start_seconds` is how long one may take to
    become ready, `session_seconds` how long it may be used.
    """

    namespace: str
    image: str
    runtime_class: str
    kubeconfig: Path | None
    cpu_request: float
    start_seconds: float
    session_seconds: float
