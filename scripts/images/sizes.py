"""Prints how big images are: `sizes.py TAG PREFIX IMAGE...`. Compressed is `docker save | gzip | wc -c`, in MB of 10⁶.

Below each image stand the libraries of its Python environment that take most of it, unpacked.
"""

import subprocess
import sys
import zlib

_MB = 1_000_000
_SHOWN = 8
_BIGGEST = """
import os, pathlib
for site in pathlib.Path("/opt").glob("*/lib/python3*/site-packages"):
    for one in site.iterdir():
        files = [one] if one.is_file() else [pathlib.Path(at, name) for at, _, names in os.walk(one) for name in names]
        print(sum(file.lstat().st_size for file in files), one.name)
"""


def compressed(image: str) -> int:
    """Bytes of the saved image after gzip at its usual level."""
    with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as saved:  # noqa: S603, S607
        assert saved.stdout is not None  # noqa: S101 - of the pipe above
        packer, size = zlib.compressobj(6, wbits=31), 0
        while block := saved.stdout.read(1 << 20):
            size += len(packer.compress(block))
    if saved.returncode:
        raise SystemExit(f"{image} can't be saved")
    return size + len(packer.flush())


def said(*command: str) -> str:
    """What a docker command prints."""
    return subprocess.run(["docker", *command], check=True, capture_output=True, text=True).stdout  # noqa: S603, S607


def main(tag: str, prefix: str, *names: str) -> None:
    """One line an image, with the biggest libraries."""
    print(f"{'image':<16} {'compressed':>10} {'unpacked':>9}  biggest libraries, unpacked MB")
    for name in names:
        image = f"{prefix}{name}:{tag}"
        unpacked = int(said("image", "inspect", "--format", "{{.Size}}", image))
        run = ("run", "--rm", "--network", "none", "--read-only", "--entrypoint", "python3.11", image, "-c", _BIGGEST)
        sizes = [line.split(" ", 1) for line in said(*run).splitlines()]
        biggest = sorted(((int(size), what) for size, what in sizes), reverse=True)[:_SHOWN]
        listed = ", ".join(f"{what} {size / _MB:.0f}" for size, what in biggest if size >= _MB)
        print(f"{name:<16} {compressed(image) / _MB:>7.1f} MB {unpacked / _MB:>6.0f} MB  {listed}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
