"""The frame sizes that an engine is built for: least, usual and greatest."""

from __future__ import annotations

from teco.core.errors import USAGE, TecoError
from teco.model.manifest import Manifest

Size = tuple[int, int]


DYNAMIC_PROFILE: tuple[Size | None, Size, Size] = (None, (180, 320), (540, 960))
"""LR (h, w) of a dynamic engine: from the contract's minimum, fastest at 180x320 (the size of the
published comparisons; 720p out), up to 540x960 (2160p out)."""


def words(size: Size) -> str:
    """(180, 320) -> "180x320"."""
    return f"{size[0]}x{size[1]}"


def profile_of(source: Manifest, asked: tuple[Size, Size, Size] | None) -> tuple[Size, Size, Size]:
    """Least, usual and greatest LR (h, w) of an engine.

    Args:
        source: manifest of the ONNX file.
        asked: by the user; None for the default.

    Raises:
        TecoError: sizes for a static file, sizes that do not grow, or too small ones.
    """
    if source.size != "dynamic":
        h, w = (int(x) for x in source.size.split("x"))
        if asked is not None and set(asked) != {(h, w)}:
            raise TecoError(
                f"the ONNX file is for {source.size} frames only, the sizes asked for are "
                f"{', '.join(map(words, asked))}",
                hint="export one with --size dynamic",
                exit_code=USAGE,
            )
        return (h, w), (h, w), (h, w)
    least = source.contract.minimum
    low, usual, high = asked or (DYNAMIC_PROFILE[0] or (least, least), *DYNAMIC_PROFILE[1:])
    told = ", ".join(map(words, (low, usual, high)))
    if min(low) < least:
        raise TecoError(
            f"the smallest frame of this model is {least}x{least}, the sizes asked for are {told}",
            exit_code=USAGE,
        )
    if not all(a <= b <= c for a, b, c in zip(low, usual, high, strict=True)):
        raise TecoError(
            f"the sizes asked for are {told}; expected least, usual and greatest, each no smaller "
            "than the one before in height and width",
            exit_code=USAGE,
        )
    return low, usual, high
