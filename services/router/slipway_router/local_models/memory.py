"""Handing freed memory back to the kernel."""

import ctypes


def trim() -> None:
    """Return free heap pages to the kernel (glibc's malloc_trim); does nothing where there is none.

    Loading a model and embedding a large batch leave tens of MiB of free heap, which would stay resident for ever.
    """
    release = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if release is not None:
        release(0)
