"""Least squares with coefficients that cannot be negative, as times and losses cannot."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]


def nnls(a: Matrix, b: Vector) -> Vector:
    """The x >= 0 that minimises ``|a x - b|``: the active-set method of Lawson and Hanson.

    Source: Solving Least Squares Problems (1974), chapter 23. Where ``a`` has no full column rank
    there are many such x, and one of them is returned.

    Args:
        a: (m, n), finite.
        b: (m,), finite.

    Returns:
        (n,).

    Raises:
        ValueError: the shapes do not fit, or a value is not finite.
    """
    if a.ndim != 2 or b.shape != (a.shape[0],):
        raise ValueError(f"shapes {a.shape} and {b.shape} do not fit")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("a value is not finite")
    n = a.shape[1]
    # Columns of one length, so that one tolerance judges them all.
    length = np.linalg.norm(a, axis=0)
    length[length == 0] = 1.0
    a = a / length
    x = np.zeros(n)
    passive = np.zeros(n, dtype=bool)
    tolerance = 1e-12 * max(float(np.linalg.norm(b)), 1e-300)
    # Each round adds one coefficient; with exact arithmetic none is ever tried twice, and rounding
    # is kept from turning in circles by the bound.
    for _ in range(3 * n):
        gain = a.T @ (b - a @ x)
        gain[passive] = -np.inf
        best = int(np.argmax(gain)) if n else 0
        if not n or gain[best] <= tolerance:
            break
        passive[best] = True
        while True:
            trial = np.zeros(n)
            trial[passive] = np.linalg.lstsq(a[:, passive], b, rcond=None)[0]
            below = passive & (trial <= 0)
            if not below.any():
                x = trial
                break
            # Go towards the trial until the first coefficient reaches zero, and leave it there.
            step = float(np.min(x[below] / (x[below] - trial[below])))
            x = x + step * (trial - x)
            passive &= x > 1e-15
            x[~passive] = 0.0
            if not passive.any():
                break
    return x / length
