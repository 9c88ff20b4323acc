"""teco: TecoGAN video super-resolution from weights to a player.

For programs: :class:`teco.Stream`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from teco.inference.stream import Stream

__version__ = "0.1.0"

__all__ = ["Stream", "__version__"]


def __getattr__(name: str) -> Any:
    # Not imported above: numpy comes with it, and `teco --help` should not wait for that.
    if name == "Stream":
        from teco.inference.stream import Stream

        return Stream
    raise AttributeError(f"module 'teco' has no attribute {name!r}")
