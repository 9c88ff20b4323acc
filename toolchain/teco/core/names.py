"""Names for people."""

from __future__ import annotations

from collections.abc import Sequence


def common_prefix(names: Sequence[str]) -> str:
    """What all names begin with, whole words of it, so that tables can do without."""
    if len(set(names)) < 2:
        return ""
    first, last = min(names), max(names)
    pairs = enumerate(zip(first, last, strict=False))
    same = next((i for i, (a, b) in pairs if a != b), len(first))
    return first[: first.rfind("-", 0, same) + 1]
