"""Ports as decoders and encoders have pictures: 8-bit 4:2:0 planes, NV12 or I420.

Around a deploy form stand two conversions, which are traced with it:

- on the way in, chroma is filtered to every pixel and Y'CbCr becomes RGB, clipped to [0, 1];
- on the way out, RGB is clipped, becomes Y'CbCr, its chroma is filtered to half the size, and all
  is rounded to nearest (ties to even).

The matrix and the range are no part of the graph: it takes both directions as (3, 4) float32
inputs. The filters are :mod:`teco_models.deploy.chroma`. Nothing is rounded between the planes and
the network: what a host that goes by 8-bit RGB loses there, twice, stays. Every state is float32,
the last frame as RGB among them; zeros in planes would be no black.

Products and sums are written out, because some runtimes would compute a matrix product in TF32, or
cannot take convolution weights from an input. Casts stand right at the ports (see
:mod:`teco_models.deploy.ports`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from teco_models.deploy.chroma import (
    BEFORE,
    DOWN_ACROSS,
    DOWN_DOWN,
    UP_ACROSS,
    UP_DOWN,
    UP_REACH,
)

LEVELS = 255


class _PlanePorts(nn.Module):
    """What both layouts share.

    Args:
        step: a deploy form with float ports.
        carries_picture: its picture is state.
        carries_frame: its frame is state.
    """

    up: Tensor
    down: Tensor
    across: Tensor

    def __init__(self, step: nn.Module, *, carries_picture: bool, carries_frame: bool) -> None:
        super().__init__()
        self.step = step
        self.carries_picture = carries_picture
        self.carries_frame = carries_frame
        rows, columns = (torch.tensor(taps, dtype=torch.float64) for taps in (UP_DOWN, UP_ACROSS))
        side = 2 * UP_REACH + 1
        phases = torch.einsum("ai,bj->abij", rows, columns).reshape(4, 1, side, side)
        self.register_buffer("up", phases.repeat(2, 1, 1, 1).float())
        rows, columns = (torch.tensor(t, dtype=torch.float64) for t in (DOWN_DOWN, DOWN_ACROSS))
        self.register_buffer("down", rows.view(1, 1, -1, 1).repeat(3, 1, 1, 1).float())
        self.register_buffer("across", columns.view(1, 1, 1, -1).repeat(3, 1, 1, 1).float())

    def run(
        self, y: Tensor, chroma: Tensor, to_rgb: Tensor, from_rgb: Tensor, *past: Tensor
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, ...]]:
        """One step.

        Args:
            y: (1, h, w, 1) uint8.
            chroma: (1, h/2, w/2, 2), float32 levels.
            to_rgb: (3, 4) float32; times (Y, Cb, Cr, 1) in levels it is RGB in [0, 1].
            from_rgb: (3, 4) float32, the other way.
            past: the states, float32.

        Returns:
            Luma (1, 1, sh, sw) and chroma (1, 2, sh/2, sw/2) in rounded levels, float32; and the
            other results: states, then the picture's sum.
        """
        luma = y.to(torch.float32).permute(0, 3, 1, 2)
        edge = (UP_REACH,) * 4
        around = F.pad(chroma.permute(0, 3, 1, 2), edge, mode="replicate")
        fine = F.pixel_shuffle(F.conv2d(around, self.up, groups=2), 2)
        samples = (luma, fine[:, :1], fine[:, 1:])
        rgb = torch.cat([_row(to_rgb, n, samples) for n in range(3)], dim=1).clamp(0, 1)
        results = self.step(rgb, *past)
        picture, *carried = (results,) if isinstance(results, Tensor) else results
        carried = [*([rgb] if self.carries_frame else []), *carried]
        carried += [picture] if self.carries_picture else []
        seen = picture.clamp(0, 1)
        colours = self._halved(seen).split(1, dim=1)
        luma = _levels(_row(from_rgb, 0, seen.split(1, dim=1)))
        made = _levels(torch.cat([_row(from_rgb, n, colours) for n in (1, 2)], dim=1))
        return (luma, made), (*carried, picture.sum(dim=(1, 2, 3)))

    def _halved(self, x: Tensor) -> Tensor:
        """(1, 3, H, W) -> (1, 3, H/2, W/2) where chroma lies."""
        above, left = BEFORE, BEFORE
        below, right = self.down.shape[2] - 1 - above, self.across.shape[3] - 1 - left
        x = F.pad(x, (0, 0, above, below), mode="replicate")
        x = F.conv2d(x, self.down, stride=(2, 1), groups=3)
        x = F.pad(x, (left, right, 0, 0), mode="replicate")
        return F.conv2d(x, self.across, stride=(1, 2), groups=3)


class Nv12Ports(_PlanePorts):
    """Luma, and Cb and Cr by turns."""

    def forward(
        self,
        y: Tensor,
        uv: Tensor,
        to_rgb: Tensor,
        from_rgb: Tensor,
        first: Tensor,
        second: Tensor,
        third: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """(1, h, w, 1), (1, h/2, w/2, 2) uint8, two (3, 4), the states -> planes, states, sum."""
        past = (x for x in (first, second, third) if x is not None)
        (luma, chroma), rest = self.run(y, uv.to(torch.float32), to_rgb, from_rgb, *past)
        return _bytes(luma), _bytes(chroma), *rest


class I420Ports(_PlanePorts):
    """Luma, Cb, Cr."""

    def forward(
        self,
        y: Tensor,
        u: Tensor,
        v: Tensor,
        to_rgb: Tensor,
        from_rgb: Tensor,
        first: Tensor,
        second: Tensor,
        third: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """The same with chroma in two planes of (1, h/2, w/2, 1)."""
        past = (x for x in (first, second, third) if x is not None)
        chroma = torch.cat([x.to(torch.float32) for x in (u, v)], dim=3)
        (luma, chroma), rest = self.run(y, chroma, to_rgb, from_rgb, *past)
        return _bytes(luma), _bytes(chroma[:, :1]), _bytes(chroma[:, 1:]), *rest


def _row(matrix: Tensor, n: int, parts: Sequence[Tensor]) -> Tensor:
    """Row ``n`` of a (3, 4) matrix times three tensors and 1."""
    total = parts[0] * matrix[n, 0]
    for k in (1, 2):
        total = total + parts[k] * matrix[n, k]
    return total + matrix[n, 3]


def _levels(x: Tensor) -> Tensor:
    return torch.round(x).clamp(0, LEVELS)


def _bytes(x: Tensor) -> Tensor:
    """(1, c, H, W) levels -> (1, H, W, c) uint8."""
    return x.permute(0, 2, 3, 1).to(torch.uint8)
