"""The frame sizes that an engine is built for: least, usual and greatest."""

from __future__ import annotations

import re

from teco.core.errors import USAGE, TecoError
from teco.model.manifest import Manifest
from teco_models.variant import MIN_SIZE

Size = tuple[int, int]


DYNAMIC_PROFILE: tuple[Size | None, Size, Size] = (None, (180, 320), (1080, 1920))
"""LR (h, w) of a dynamic engine: from the contract's minimum, fastest at 180x320 (the size of the
published comparisons; 720p out), up to 1080p, so that PAL (576x720) and 720p are inside. Memory is
taken for the size that runs, not for the greatest."""

Profile = tuple[Size, Size, Size]
"""Least, usual and greatest."""


def words(size: Size) -> str:
    """(180, 320) -> "180x320"."""
    return f"{size[0]}x{size[1]}"


def usual_profile(minimum: int) -> tuple[str, str, str]:
    """In words, that of a model with this smallest frame where nothing is said."""
    least = DYNAMIC_PROFILE[0] or (minimum, minimum)
    return words(least), words(DYNAMIC_PROFILE[1]), words(DYNAMIC_PROFILE[2])


def parse_profile(text: str) -> Profile:
    """ "8x8,180x320,1080x1920" -> least, usual and greatest (h, w).

    Raises:
        TecoError: it is not three sizes; exit code 2.
    """
    sizes = [re.fullmatch(r"(\d{1,5})x(\d{1,5})", part.strip()) for part in text.split(",")]
    found = [(int(m[1]), int(m[2])) for m in sizes if m is not None]
    if len(sizes) != 3 or len(found) != 3:
        raise TecoError(
            f"--profile {text!r} is not three LR sizes HEIGHTxWIDTH: least, usual and greatest",
            hint="for example --profile 8x8,180x320,1080x1920, which is the default",
            exit_code=USAGE,
        )
    profile = found[0], found[1], found[2]
    _check_order(profile)
    if min(profile[0]) < MIN_SIZE:
        raise TecoError(
            f"--profile begins at {words(profile[0])}, and no frame may be below "
            f"{MIN_SIZE}x{MIN_SIZE}",
            exit_code=USAGE,
        )
    return profile


def _check_order(profile: Profile) -> None:
    if not all(a <= b <= c for a, b, c in zip(*profile, strict=True)):
        raise TecoError(
            f"the sizes asked for are {', '.join(map(words, profile))}; expected least, usual and "
            "greatest, each no smaller than the one before in height and width",
            exit_code=USAGE,
        )


def profile_of(source: Manifest, asked: Profile | None) -> Profile:
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
    multiple = source.contract.multiple_of
    if any(side % multiple for size in (low, usual, high) for side in size):
        raise TecoError(
            f"the frames of this model have even sides, the sizes asked for are {told}",
            hint="or take a model with RGB ports (--io uint8)",
            exit_code=USAGE,
        )
    _check_order((low, usual, high))
    return low, usual, high
