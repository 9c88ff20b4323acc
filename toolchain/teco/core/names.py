"""Names for people."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """ "did you mean live? " to begin a hint with, or "" where no name is near what was typed."""
    known = {name.lower(): name for name in names}
    near = difflib.get_close_matches(word.lower(), known, n=1)
    if not near:  # "realcpu" for real-cpu-textured is less near by letters than by its beginning
        near = [name for name in known if len(word) > 2 and name.startswith(word.lower())]
    return f"did you mean {known[near[0]]}? " if near else ""


def common_prefix(names: Sequence[str]) -> str:
    """What all names begin with, whole words of it, so that tables can do without."""
    if len(set(names)) < 2:
        return ""
    first, last = min(names), max(names)
    pairs = enumerate(zip(first, last, strict=False))
    same = next((i for i, (a, b) in pairs if a != b), len(first))
    return first[: first.rfind("-", 0, same) + 1]
