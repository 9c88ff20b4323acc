"""Where one shot ends and the next begins, decided frame by frame with nothing looked ahead.

The rule: a cut is where the picture changes much more than it has been changing. Compared are
small luma pictures, at their best of a few shifts so that a pan is no change, by mean absolute
difference; the change must exceed a fixed level and a multiple of the recent changes.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray
