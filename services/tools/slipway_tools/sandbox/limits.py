"""What a program in the sandbox may use."""

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Bounds of one program; bytes unless the name says otherwise."""

    memory: int = 512 * MIB  # of all its processes together, and of its files
    workspace: int = 64 * MIB
    inodes: int = 4096
    processes: int = 32
    open_files: int = 256
    cpus: float = 1.0
    max_seconds: float = 300.0
    stream: int = 64 * 1024  # of standard output and of standard error that is kept
    flood: int = 8 * MIB  # of both together, before the program is ended
    result: int = MIB  # of result.json
    collect: int = 16 * MIB  # of all files that a call brings out
    file_size: int = 64 * MIB  # of one file
