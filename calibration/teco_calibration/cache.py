"""Where teco keeps what can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """``$TECO_CACHE``, else ``teco`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    if own := os.environ.get("TECO_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "teco"
