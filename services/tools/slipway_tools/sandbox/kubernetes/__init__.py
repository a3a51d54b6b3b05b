"""Sandboxes that are pods of a Kubernetes cluster: loaded only when that kind of sandbox is chosen."""
