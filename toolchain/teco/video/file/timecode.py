"""SMPTE time code: the label of a frame, 01:02:03:04, and that of a later one."""

from __future__ import annotations

import re
from fractions import Fraction

_TIME = re.compile(r"(\d{2}):(\d{2}):(\d{2})([:;.])(\d{2,3})")


def moved(text: str, frames: int, rate: Fraction) -> str | None:
    """The time code so many frames later.

    Args:
        text: "HH:MM:SS:FF", with ";" or "." before the frame where labels are dropped (SMPTE
            ST 12-1): at 29.97 frames a second the first two of each minute but every tenth.
        frames: by how many to go on.
        rate: frames a second.

    Returns:
        None where the text is no time code.
    """
    found = _TIME.fullmatch(text.strip())
    if found is None or rate <= 0:
        return None
    hours, minutes, seconds, frame = (int(found[n]) for n in (1, 2, 3, 5))
    labels = round(rate)
    dropped = labels // 15 if found[4] != ":" and labels % 30 == 0 else 0
    minute = hours * 60 + minutes
    count = (minute * 60 + seconds) * labels + frame
    count += frames - dropped * (minute - minute // 10)
    if dropped:
        # Ten minutes hold nine times the drop; the first minute of each ten has all its labels.
        tens, rest = divmod(count, labels * 600 - dropped * 9)
        within = max(0, rest - labels * 60) // (labels * 60 - dropped) + (rest >= labels * 60)
        count += dropped * (9 * tens + within)
    count %= labels * 86_400
    count, frame = divmod(count, labels)
    count, seconds = divmod(count, 60)
    hours, minutes = divmod(count, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{found[4]}{frame:0{len(found[5])}d}"
