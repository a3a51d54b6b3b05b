"""Is the process in this container alive? `healthcheck.py VARIABLE PATH`: GET of PATH where VARIABLE says it listens.

Run by `python -I -S`, so it imports next to nothing; exit status 1 for any answer but 200 within 2 s.
"""

import os
import socket
import sys


def main(variable: str, path: str) -> int:
    """Ask once."""
    host, _, port = os.environ[variable].rpartition(":")
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host.strip("[]"), host.strip("[]"))
    try:
        with socket.create_connection((host, int(port)), timeout=2) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
            return 0 if connection.recv(64).split(b" ", 2)[1:2] == [b"200"] else 1
    except OSError as error:
        sys.stderr.write(f"{host}:{port}: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
