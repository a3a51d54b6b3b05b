"""The network of sandboxed programs: rules by tool, and the proxy that is their only way out."""
