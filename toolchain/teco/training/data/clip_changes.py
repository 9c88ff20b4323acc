"""Which clips a run was made with and which it is given now, told apart by name."""

from __future__ import annotations

import re
from collections.abc import Sequence

ShotFacts = tuple[str, tuple[int, ...], float]
"""Name, shape of the frames and detail of a shot: what decides the samples drawn from it."""

NAMED = 3
"""Clips that are named of each kind; of more, the number is told."""

# As teco.training.data.prepare calls shots: the clip, a digest of the file and of how clips.toml
# uses it, a crop's number perhaps, and the range of frames.
_SHOT = re.compile(r"(?P<clip>.+?)(?:-[0-9a-f]{16}(?:-\d+)*)?(?:\[\d+:\d+\])?")


def what_differs(before: Sequence[ShotFacts] | None, now: Sequence[ShotFacts]) -> str:
    """What became of the clips, such as "gone: a.mp4; added: b.mp4 and c.mp4; changed: d.mp4".

    Args:
        before: those of the checkpoint; None where it is older than this record.
        now: those that were given.

    Returns:
        The words; empty where nothing is known or nothing differs.
    """
    if before is None:
        return ""
    old, new = _by_clip(before), _by_clip(now)
    kinds = {
        "gone": [clip for clip in old if clip not in new],
        "added": [clip for clip in new if clip not in old],
        "changed": [clip for clip in old if clip in new and old[clip] != new[clip]],
    }
    said = [f"{kind}: {_some(clips)}" for kind, clips in kinds.items() if clips]
    if not said and list(map(tuple, before)) != list(now):
        return "the same clips in another order"
    return "; ".join(said)


def _by_clip(shots: Sequence[ShotFacts]) -> dict[str, list[ShotFacts]]:
    """Clip -> its shots, in the order given."""
    found: dict[str, list[ShotFacts]] = {}
    for name, shape, detail in shots:
        match = _SHOT.fullmatch(name)
        found.setdefault(match["clip"] if match else name, []).append((name, tuple(shape), detail))
    return found


def _some(clips: Sequence[str]) -> str:
    rest = len(clips) - NAMED
    return ", ".join(clips[:NAMED]) + (f" and {rest} more" if rest > 0 else "")
