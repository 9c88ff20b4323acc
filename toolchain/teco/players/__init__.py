"""Players: one file per target of ``teco emit``, and the explicit table of them."""

from __future__ import annotations

from teco.core.errors import USAGE, TecoError
from teco.core.names import did_you_mean
from teco.players.base import EmitTarget
from teco.players.clibrary import CLibrary
from teco.players.frei0r import Frei0r
from teco.players.gstreamer import GStreamer
from teco.players.mpv import Mpv
from teco.players.vapoursynth import VapourSynth
from teco.players.web.target import Web

TARGETS: tuple[EmitTarget, ...] = (
    VapourSynth(),
    Mpv(),
    Frei0r(),
    GStreamer(),
    CLibrary(),
    Web(),
)

NAMES = tuple(target.name for target in TARGETS)


def find(name: str) -> EmitTarget:
    """The target of that name.

    Raises:
        TecoError: there is none.
    """
    for target in TARGETS:
        if target.name == name:
            return target
    raise TecoError(
        f"no emit target is called {name!r}",
        hint=f"{did_you_mean(name, NAMES)}targets: {', '.join(NAMES)}",
        exit_code=USAGE,
    )


__all__ = ["NAMES", "TARGETS", "find"]
