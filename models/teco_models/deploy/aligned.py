"""The deploy form of computed alignment (:mod:`teco_models.arch.computed_alignment`).

The same function, arranged for runtimes. Exact rewrites (differences are rounding only):

1. Every size may stay symbolic: frames are continued to whole blocks by a gather of rows and
   columns, and positions are made from the coordinates' last values.
2. Colours are a batch of three: one convolution of 1 to p channels enlarges what is left of R, G
   and B without luma, and the output's luma phases are added to each before they become pixels.
3. ONNX Runtime's GridSample takes 50 ns a value on one core, so there the warp is a gather: the
   phases of an LR pixel share its flow, hence s+1 by s+1 values of the previous output and one pair
   of fractions hold them all; features are gathered a pixel at a time.

Half precision: the network's own convolutions have float16 weights and run on float16 tensors; its
alignment, enlargement, correction and mixing, whose values are positions, pictures and states, stay
float32, and so do all ports.

Shape legend: h x w the LR size, H x W the same in whole blocks, s the scale, p = s^2. Batch is 1.
"""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from teco_models.arch.backprojection import trust
from teco_models.arch.computed_alignment import (
    BLOCK,
    GAIN_PAST,
    LIMITS,
    LUMA,
    STRIDES,
    AlignedGenerator,
    bicubic_phases,
    binomial_filter,
    displacement,
    edged,
    finer,
    gradient_filter,
)
from teco_models.deploy.step import Precision, as_dtype


def reach(scale: int) -> int:
    """HR pixels that the past is continued by for rewrite 3: the farthest flow and a block's side,
    s (0.75 + 2 + 4) + s, less the s - 1 pixels by which a block's corner is inside."""
    return math.ceil(7.75 * scale) - (scale - 1)


@dataclass(frozen=True, kw_only=True)
class AlignedRewrites:
    """Which exact rewrites a graph uses; what is best depends on the runtime.

    Attributes:
        gathered_warp: 3 above.
    """

    gathered_warp: bool = True


ALIGNED_TARGETS = {
    "onnxruntime": AlignedRewrites(),
    "openvino": AlignedRewrites(gathered_warp=False),
    "tensorrt": AlignedRewrites(gathered_warp=False),
    "web": AlignedRewrites(gathered_warp=False),
}


class AlignedStep(nn.Module):
    """One recurrent step, flat, named tensors in and out.

    Args:
        generator: float32 weights, which this module goes on using; in eval mode.
        rewrites: which rewrites to apply.
        inner: type of the tensors that the network's convolutions take and give; the convolutions'
            own is set by :func:`aligned_step`.
    """

    slope_taps: Tensor
    smooth_taps: Tensor
    luma_shares: Tensor
    colour_taps: Tensor

    def __init__(
        self,
        generator: AlignedGenerator,
        rewrites: AlignedRewrites | None = None,
        inner: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.inner = inner
        self.rewrites = rewrites or AlignedRewrites()
        self.variant = generator.variant
        self.generator = generator
        self.register_buffer("slope_taps", gradient_filter(), persistent=False)
        self.register_buffer("smooth_taps", binomial_filter(), persistent=False)
        self.register_buffer("luma_shares", torch.tensor(LUMA).view(1, 3, 1, 1), persistent=False)
        colour = bicubic_phases(5, self.variant.scale, self.variant.centred)
        self.register_buffer("colour_taps", colour, persistent=False)

    def forward(
        self,
        lr: Tensor,
        luma_prev: Tensor,
        hr_luma_prev: Tensor,
        latent_prev: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """(1, 3, h, w), (1, 1, h, w), (1, 1, sh, sw), (1, L, h, w) -> the (1, 3, sh, sw) frame and
        the three states of the next step; two where L is 0."""
        net, s = self.generator, self.variant.scale
        y = F.conv2d(lr, self.luma_shares)
        known = (luma_prev.amax(dim=(1, 2, 3), keepdim=True) > 0).to(y.dtype)
        flow = self._flow(y, luma_prev, hr_luma_prev)
        warped = self._warp_phases(hr_luma_prev, flow)
        latent = () if latent_prev is None else (self._warp_features(latent_prev, flow),)
        base = net.enlarge(y)
        error = known * (y - net.shrink(warped))
        around = edged(error, 1)
        corrected = warped + F.conv2d(around, net.spread)
        gain = GAIN_PAST * known
        x = net.inputs(y, GAIN_PAST * error, gain * (corrected - base), *latent)
        answers = as_dtype(net.features(as_dtype(x, self.inner)), torch.float32)
        detail, mask, latent = net.split(answers)
        result = base + detail
        result = result + mask * (known * trust(around)) * (corrected - result)
        colours = F.conv2d(edged((lr - y).transpose(0, 1), 2), self.colour_taps)  # (3, p, h, w)
        # Not clamped: a runtime's clamp may turn what is not finite into a number.
        picture = F.pixel_shuffle(colours + result, s).transpose(0, 1)
        return picture, y, F.pixel_shuffle(result.clamp(0.0, 1.0), s), *latent

    # -------------------------------------------------------------- alignment

    def _flow(self, y: Tensor, past: Tensor, hr: Tensor) -> Tensor:
        """(1, 2, h, w) in LR pixels, from the frame to the past."""
        h, w = y.shape[-2:]
        target = self.generator.shrink_output(hr)
        # All three at once: one gather of rows and one of columns.
        frames = torch.cat((y, past, target), dim=1)
        symbolic = type(h) is not int or type(w) is not int
        whole = not symbolic and h % BLOCK == w % BLOCK == 0
        if not whole:
            rows, columns = _continued(h, y.device), _continued(w, y.device)
            frames = frames.index_select(2, rows).index_select(3, columns)
        half = F.avg_pool2d(frames[:, :2], 2)
        quarter = F.avg_pool2d(half, 2)
        flow = self._lucas_kanade(quarter[:, :1], quarter[:, 1:], None, 2)
        flow = self._lucas_kanade(half[:, :1], half[:, 1:], 2 * finer(flow, 2), 1)
        flow = self._lucas_kanade(frames[:, :1], frames[:, 2:], 2 * flow, 0)
        flow = finer(flow, STRIDES[0])
        return flow if whole else flow[..., :h, :w]

    def _lucas_kanade(
        self, current: Tensor, past: Tensor, flow: Tensor | None, level: int
    ) -> Tensor:
        """:func:`teco_models.arch.computed_alignment.lucas_kanade` for any size."""
        stride = STRIDES[level]
        warped = past if flow is None else warped_at(past, finer(flow, stride))
        slope = F.conv2d(edged((current + warped) / 2, 2), self.slope_taps)  # (1, 2, a, b)
        gx, gy = slope.split(1, dim=1)
        gt = warped - current
        sums = torch.cat((slope * gx, gy * gy, slope * gt), dim=1)  # xx, xy, yy, xt, yt
        sums = F.avg_pool2d(sums, 2 * stride, stride, stride // 2, count_include_pad=False)
        sums = F.conv2d(edged(sums, 1), self.smooth_taps, groups=5)
        step = displacement(sums, LIMITS[level])
        return step if flow is None else flow + step

    def _warp_phases(self, hr: Tensor, flow: Tensor) -> Tensor:
        """(1, 1, sh, sw) along (1, 2, h, w) LR pixels -> (1, p, h, w)."""
        if self.rewrites.gathered_warp:
            return self._gathered_phases(hr, flow)
        h, w = flow.shape[-2:]
        s, phases = self.variant.scale, self.variant.phases
        phase = torch.arange(s, device=flow.device, dtype=torch.float32)
        x, y = _pixels_of(h, w, flow.device)
        x, y = s * x + phase.view(s, 1), s * y.view(h, 1) + phase  # (s, w), (h, s)
        unit = 2 / torch.stack((x[-1, -1], y[-1, -1]))  # of a pixel, in grid_sample's [-1, 1]
        # LR row by LR row, the phases of a row one after another: what is read lies close
        # together, and only whole rows are moved afterwards.
        shape = (h, s, s, w)
        places = torch.stack(
            (x.view(1, 1, s, w).expand(shape), y.view(h, s, 1, 1).expand(shape)), dim=-1
        )
        flow = (flow * (s * unit).view(1, 2, 1, 1)).permute(2, 0, 3, 1)  # (h, 1, w, 2)
        grid = flow + (places * unit - 1).reshape(h, phases, w, 2)
        past = F.grid_sample(
            hr, grid.reshape(1, h * phases, w, 2),
            mode="bilinear", padding_mode="border", align_corners=True,
        )  # fmt: skip
        return past.reshape(1, h, phases, w).transpose(1, 2)

    def _gathered_phases(self, hr: Tensor, flow: Tensor) -> Tensor:
        """The same without GridSample: an LR pixel's phases lie in s+1 by s+1 HR pixels."""
        h, w = flow.shape[-2:]
        s, margin = self.variant.scale, reach(self.variant.scale)
        x, y = _pixels_of(h, w, flow.device, torch.int32)
        hr = F.pad(hr, (margin,) * 4, mode="replicate")
        width = hr.shape[-1]
        flow = s * flow[0]
        whole = flow.floor()
        right, down = (flow - whole).view(2, 1, 1, h, w).split(1)
        nx, ny = whole.to(torch.int32).view(2, h, w).split(1)
        corner = (ny + (s * y.view(h, 1) + margin)) * width + (nx + (s * x + margin))
        tap = torch.arange(s + 1, device=flow.device, dtype=torch.int32)
        taps = (tap.view(-1, 1) * width + tap).view(-1, 1, 1)
        block = hr.view(-1).index_select(0, (corner + taps).view(-1))
        block = block.view(s + 1, s + 1, h, w)
        block = _between(block[:-1], block[1:], down[0])
        block = _between(block[:, :-1], block[:, 1:], right[0])
        return block.reshape(1, self.variant.phases, h, w)

    def _warp_features(self, x: Tensor, flow: Tensor) -> Tensor:
        """(1, L, h, w) along (1, 2, h, w) LR pixels."""
        if not self.rewrites.gathered_warp:
            return warped_at(x, flow)
        # Features of a pixel side by side, so that each is one copy of all.
        _, channels, h, w = x.shape
        across, below = _pixels_of(h, w, flow.device, torch.int32)
        x = x.view(channels, h * w).t()
        whole = flow.floor()
        right, down = (flow - whole)[0].view(2, -1, 1).split(1)
        nx, ny = whole[0].to(torch.int32).split(1)
        left, top = nx + across, ny + below.view(h, 1)
        corners = [
            x.index_select(0, (_inside(top + dy, below) * w + _inside(left + dx, across)).view(-1))
            for dy in (0, 1)
            for dx in (0, 1)
        ]
        upper = _between(corners[0], corners[1], right[0])
        lower = _between(corners[2], corners[3], right[0])
        return _between(upper, lower, down[0]).t().reshape(1, channels, h, w)


def aligned_step(
    generator: AlignedGenerator,
    rewrites: AlignedRewrites | None = None,
    precision: Precision = "fp32",
) -> AlignedStep:
    """The deploy form, in eval mode.

    Arguments as of :func:`teco_models.deploy.step.deploy_step`.
    """
    if precision == "fp32":
        return AlignedStep(generator, rewrites).eval()
    step = AlignedStep(deepcopy(generator), rewrites, torch.float16).eval()
    for module in step.generator.modules():
        if isinstance(module, nn.Conv2d):  # the linear filters are parameters of the whole
            module.half()
    return step


def warped_at(x: Tensor, flow: Tensor) -> Tensor:
    """:func:`teco_models.arch.ops.warp` for (1, c, h, w) of any size: no size is a number here."""
    h, w = flow.shape[-2:]
    gx = torch.arange(w, device=flow.device, dtype=torch.float32)
    gy = torch.arange(h, device=flow.device, dtype=torch.float32)
    gx, gy = (flow[:, 0] + gx) * (2 / gx[-1:]) - 1, (flow[:, 1] + gy[:, None]) * (2 / gy[-1:]) - 1
    grid = torch.stack((gx, gy), dim=-1)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=True)


def _pixels_of(
    h: int, w: int, device: torch.device, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """(w,) and (h,): where pixels lie across and down."""
    return torch.arange(w, device=device, dtype=dtype), torch.arange(h, device=device, dtype=dtype)


def _between(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    return a + share * (b - a)


def _inside(index: Tensor, all_of_them: Tensor) -> Tensor:
    """Border pixels continued outside: ``index`` held within 0 and the last of ``all_of_them``."""
    return torch.minimum(index.clamp(min=0), all_of_them[-1:])


def _continued(size: int, device: torch.device) -> Tensor:
    """Row (or column) indices of a frame continued to whole blocks."""
    index = torch.arange((size + BLOCK - 1) // BLOCK * BLOCK, device=device)
    return torch.minimum(index, torch.arange(size, device=device)[-1:])
