"""Python's cycle collector, where it must not run."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Generator


@contextlib.contextmanager
def no_collection() -> Generator[None]:
    """No garbage is looked for meanwhile, in any thread.

    For two places. Tracing makes millions of objects that stay, and looking through them took a
    sixth of its time. And TensorRT holds a lock while it calls Python, to log or to tell progress:
    a collection in such a call that frees an old builder waits for that lock for ever.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
