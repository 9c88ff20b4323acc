"""teco: TecoGAN video super-resolution from weights to a player.

For programs: :func:`upscale`, :func:`export`, :func:`bench` and :func:`models`, which do what the
commands of these names do; and :class:`Stream`, frame by frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from teco.api import bench, export, models, upscale
    from teco.inference.stream import Stream

__version__ = "0.1.0"

__all__ = ["Stream", "__version__", "bench", "export", "models", "upscale"]


def __getattr__(name: str) -> Any:
    # Not imported above: numpy comes with it, and `teco --help` should not wait for that.
    if name == "Stream":
        from teco.inference.stream import Stream

        return Stream
    if name in __all__:
        from teco import api

        return getattr(api, name)
    raise AttributeError(f"module 'teco' has no attribute {name!r}")
