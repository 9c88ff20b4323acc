"""The generator of computed alignment: motion without learning, luma by a small network.

For ordinary clips (degradation ``"real"``): shrunk about the centre of each pixel, colours at half
the size, compressed. And for the papers' BD, whose LR pixel is a blur of 9x9 HR pixels about the
first of its own. One step:

1. **Luma.** The network enlarges the frame's luma alone; what it adds to luma is added to R, G and
   B alike, over a bicubic enlargement of the frame. Colours are stored at half the size in nearly
   every clip and have no detail to be found.
2. **Flow** from the frame to the past, by pyramid Lucas-Kanade (Lucas and Kanade 1981) without any
   parameter: at a quarter and at half the LR size between the two frames, at the LR size between
   the frame and the previous *output*, shrunk as the degradation does. That last comparison is of
   like with like: what was computed from many frames has less noise than one frame has.
3. **Warp** of the previous output at HR, sampled straight into its phases at LR, P, and of the
   network's own features at LR.
4. **Back-projection** (Irani and Peleg 1991): the frame must be what P is when it is shrunk, so
   e = Y - D(P) is spread over its phases, P' = P + S(e) with S a learned 3x3 filter and D the mean
   of P's phases, or BD's blur of them.
5. **Network** at LR: it reads the frame less its local mean, e, P' less the enlarged frame, and its
   own warped features of the step before, and answers phases of detail, a mask and new features.
6. **Output**: the enlarged frame (a learned 7x7 filter) and the detail, moved towards P' by the
   mask where P fitted the frame.

Zero state is no past: the network finds that out by the brightest pixel of the previous frame, and
then P', e and the mask are zero.

Shape legend: N batch, T frames, h x w the LR size, H x W that size rounded up to multiples of
:data:`BLOCK`, C ``variant.channels``, L ``variant.latent``, M ``variant.masks``; s the scale, 2 or
4, and p = s^2; phases are (N, p, h, w) with channel = dy * s + dx for HR pixel (si + dy, sj + dx),
as :func:`torch.nn.functional.pixel_shuffle` has it. LR pixel i covers the HR pixels si to si+s-1;
its centre lies in their middle, of BD on the first.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from teco_models.arch.backprojection import STEP, phase_blur, trust
from teco_models.arch.lucas_kanade import DERIVATIVE, EPS
from teco_models.arch.ops import warp
from teco_models.variant import Variant, check_size

LUMA = (0.299, 0.587, 0.114)
"""Shares of R, G and B in luma (ITU-R BT.601), full range."""

CUBIC_A = -0.75
"""The parameter of cubic convolution (Keys 1981) that PyTorch and OpenCV use."""

BASE_TAPS = 7
"""Side of the learned filter that enlarges luma, LR pixels. A linear filter of this size, fitted by
least squares, is 0.6 to 1.0 dB better than bicubic by itself."""

GAIN_FRAME, GAIN_PAST, GAIN_DETAIL = 8.0, 16.0, 0.1
"""Of the frame less its local mean; of the misfit and of P' less the enlarged frame; of the detail.
They bring what the layers read and answer near to one. Trained without them and 0.17 dB worse: most
channels of the first layer died of inputs that were mostly one large constant."""

LOCAL_TAPS = 5
"""Side of the square whose mean is taken from the frame, LR pixels."""

LEVELS = 3
"""Of the pyramid: a quarter of the LR size, half of it, all of it."""

STRIDES = (4, 2, 2)
"""Finest level first: the flow is solved for on a grid that much coarser than its level."""

LIMITS = (0.75, 1.0, 1.0)
"""Finest level first: largest correction in pixels of the level; beyond it, gradients say nothing.
Together the levels reach 6.75 LR pixels from frame to frame."""

BLOCK = STRIDES[-1] * 2 ** (LEVELS - 1) * 2
"""Frames are continued to multiples of this many pixels for the pyramid and its grids."""

SHARE = 0.6
"""Share of the corrected past in the output before training."""

LEAK = 0.1
"""Slope of the activations below zero. With plain ReLU, a rate of 4e-3 killed 32 of 32 units of one
block and 18 of another within 240 seconds of training."""

MOST = 6.0
"""Features that are handed on are held to 0 to this, and luma to 0 to 1, so that nothing can grow
from step to step."""

LumaState = tuple[Tensor, ...]
"""(N, 1, h, w) luma of the frame before, (N, 1, sh, sw) luma of the output before, and where L is
not 0 (N, L, h, w) features of the step before."""


# ------------------------------------------------------------------ fixed filters


def bicubic_phases(taps: int, scale: int, centred: bool = True) -> Tensor:
    """(p, 1, taps, taps): bicubic as a convolution to phases.

    Args:
        taps: side of each phase's kernel, LR pixels, odd and at least 5.
        scale: s.
        centred: an LR pixel lies in the middle of its phases; else on the first of them.
    """
    shift = 0.5 / scale - 0.5 if centred else 0.0

    def kernel(x: float) -> float:
        a, x = CUBIC_A, abs(x)
        if x <= 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        if x < 2:
            return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
        return 0.0

    reach = taps // 2
    rows = torch.tensor(
        [
            [kernel(offset - phase / scale - shift) for offset in range(-reach, reach + 1)]
            for phase in range(scale)
        ]
    )
    return torch.einsum("ai,bj->abij", rows, rows).reshape(scale**2, 1, taps, taps)


def bicubic(x: Tensor, scale: int, centred: bool = True) -> Tensor:
    """(N, c, h, w) -> (N, c, sh, sw), borders continued; see :func:`bicubic_phases`."""
    n, c, h, w = x.shape
    taps = bicubic_phases(5, scale, centred).to(x)
    phases = F.conv2d(edged(x.reshape(n * c, 1, h, w), 2), taps)
    return F.pixel_shuffle(phases, scale).reshape(n, c, scale * h, scale * w)


def luma_of(rgb: Tensor) -> Tensor:
    """(N, 3, h, w) -> (N, 1, h, w)."""
    return (rgb * rgb.new_tensor(LUMA).reshape(1, 3, 1, 1)).sum(1, keepdim=True)


def edged(x: Tensor, pixels: int) -> Tensor:
    """That many pixels more on each side, continued."""
    return F.pad(x, (pixels,) * 4, mode="replicate")


# ------------------------------------------------------------------ alignment


def whole_blocks(x: Tensor) -> Tensor:
    """(N, 1, h, w) -> (N, 1, H, W), the lower and right edges continued."""
    h, w = x.shape[-2:]
    if h % BLOCK or w % BLOCK:
        x = F.pad(x, (0, -w % BLOCK, 0, -h % BLOCK), mode="replicate")
    return x


def finer(flow: Tensor, factor: int) -> Tensor:
    """The same flow, in the same unit, on a grid ``factor`` times as fine."""
    return F.interpolate(flow, scale_factor=factor, mode="bilinear", align_corners=False)


def gradient_filter() -> Tensor:
    """(2, 1, 5, 5): horizontal and vertical slope."""
    kernel = torch.zeros(2, 1, 5, 5)
    kernel[0, 0, 2, :] = kernel[1, 0, :, 2] = torch.tensor(DERIVATIVE)
    return kernel


def binomial_filter() -> Tensor:
    """(5, 1, 3, 3): smooths the five sums each by itself."""
    row = torch.tensor([0.25, 0.5, 0.25])
    return torch.outer(row, row).reshape(1, 1, 3, 3).repeat(5, 1, 1, 1)


def displacement(sums: Tensor, limit: float) -> Tensor:
    """The least-squares displacement.

    Args:
        sums: (N, 5, a, b): gx gx, gx gy, gy gy, gx gt, gy gt, each summed over a window.
        limit: of each component, in pixels of the level.

    Returns:
        (N, 2, a, b), x and y in pixels of the level.
    """
    xx, xy, yy, xt, yt = sums.split(1, dim=1)
    xx, yy = xx + EPS, yy + EPS
    # Positive by at least EPS squared, as xy^2 <= xx yy before EPS was added.
    determinant = xx * yy - xy * xy
    step = torch.cat((xy * yt - yy * xt, xy * xt - xx * yt), dim=1) / determinant
    return step.clamp(-limit, limit)


def lucas_kanade(current: Tensor, past: Tensor, flow: Tensor | None, level: int) -> Tensor:
    """One step at one level, on a grid ``s`` = ``STRIDES[level]`` times coarser than it.

    Args:
        current: (N, 1, a, b), the frame at this level.
        past: (N, 1, a, b), what it is compared with.
        flow: (N, 2, a / s, b / s) in pixels of the level, so far; None for none.
        level: 0 is the finest.

    Returns:
        The flow, corrected, (N, 2, a / s, b / s).
    """
    stride = STRIDES[level]
    warped = past if flow is None else warp(past, finer(flow, stride))
    # The slope of the mean of both frames: symmetric in them, and half as noisy.
    slope = F.conv2d(edged((current + warped) / 2, 2), gradient_filter().to(current))
    gx, gy, gt = slope[:, :1], slope[:, 1:], warped - current
    sums = torch.cat((gx * gx, gx * gy, gy * gy, gx * gt, gy * gt), dim=1)
    # Windows of twice the grid's step, then a binomial: standard deviation 0.9 grid steps.
    sums = F.avg_pool2d(sums, 2 * stride, stride, stride // 2, count_include_pad=False)
    sums = F.conv2d(edged(sums, 1), binomial_filter().to(sums), groups=5)
    step = displacement(sums, LIMITS[level])
    return step if flow is None else flow + step


def coarse_flow(current: Tensor, past: Tensor) -> Tensor:
    """The two coarse levels, between frames.

    Args:
        current: (N, 1, H, W) luma.
        past: (N, 1, H, W) luma of the frame before.

    Returns:
        (N, 2, H / 4, W / 4) in LR pixels, from the frame to the past.
    """
    current1, past1 = F.avg_pool2d(current, 2), F.avg_pool2d(past, 2)
    current2, past2 = F.avg_pool2d(current1, 2), F.avg_pool2d(past1, 2)
    flow = lucas_kanade(current2, past2, None, 2)
    flow = lucas_kanade(current1, past1, 2 * finer(flow, 2), 1)
    return 2 * flow


def phase_places(h: int, w: int, scale: int, device: torch.device) -> Tensor:
    """(p h, w, 2): x and y of HR pixels in grid_sample's [-1, 1], by phase, then by LR pixel."""
    x = (2 * torch.arange(scale * w, device=device) + 1) / (scale * w) - 1
    y = (2 * torch.arange(scale * h, device=device) + 1) / (scale * h) - 1
    places = torch.stack((x.expand(scale * h, -1), y[:, None].expand(-1, scale * w)))[:, None]
    # (2, 1, sh, sw) -> (2, p, h, w) -> (p, h, w, 2)
    return F.pixel_unshuffle(places, scale).permute(1, 2, 3, 0).reshape(scale**2 * h, w, 2)


def warp_to_phases(hr: Tensor, flow: Tensor) -> Tensor:
    """Warp and space-to-depth in one; the phases of an LR pixel share its flow.

    Args:
        hr: (N, 1, sh, sw).
        flow: (N, 2, h, w) in LR pixels.

    Returns:
        Phases of ``hr`` at position + flow: bilinear, border pixels continued outside.
    """
    n, _, h, w = flow.shape
    scale = hr.shape[-1] // w
    unit = flow.new_tensor([2 / w, 2 / h])
    flow = (flow.permute(0, 2, 3, 1) * unit).repeat(1, scale**2, 1, 1)  # (N, p h, w, 2)
    return F.grid_sample(
        hr, flow + phase_places(h, w, scale, hr.device),
        mode="bilinear", padding_mode="border", align_corners=False,
    ).reshape(n, scale**2, h, w)  # fmt: skip


# ------------------------------------------------------------------ the network


def _conv(cin: int, cout: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    layer = nn.Conv2d(cin, cout, kernel, stride, kernel // 2)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def _activate(x: Tensor) -> Tensor:
    return F.leaky_relu(x, LEAK)


class PlainBlock(nn.Module):
    """x + conv(leaky_relu(conv(x)))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = _conv(channels, channels), _conv(channels, channels)
        self.second.weight.data.mul_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(_activate(self.first(x)))


class AlignedGenerator(nn.Module):
    """The network and its recurrence; initialised as it is trained from.

    Args:
        variant: of computed alignment.
    """

    blur: Tensor
    """(1, p, 3, 3), BD's blur of an LR pixel's neighbourhood, by phases. Stored with the weights,
    as it tells the degradation; none where frames were shrunk about pixel centres."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.variant = variant
        self.amp: torch.dtype | None = None
        """What the network's convolutions are autocast to while it trains; alignment, enlargement
        and back-projection stay float32."""
        c, half = variant.channels, variant.half_channels
        phases, latent, masks = variant.phases, variant.latent, variant.masks
        centred = variant.centred
        self.base = nn.Parameter(bicubic_phases(BASE_TAPS, variant.scale, centred))
        """(p, 1, 7, 7), the linear enlargement; bicubic to begin with."""
        self.spread = nn.Parameter(torch.zeros(phases, 1, 3, 3))
        """(p, 1, 3, 3), S; to begin with exact for shrinking by area, of BD the blur's transpose.
        """
        with torch.no_grad():
            if centred:
                self.spread[:, 0, 1, 1] = 1.0
            else:
                self.register_buffer("blur", phase_blur()[None])
                self.spread[:, 0] = STEP * phases * phase_blur().flip(1, 2)
        self.head = _conv(variant.input_channels, c)
        self.body = nn.Sequential(*(PlainBlock(half or c) for _ in range(variant.blocks)))
        if half:
            self.down = _conv(c, half, 3, 2)
            self.up = _conv(half, 4 * c, 1)
            self.up.weight.data.mul_(0.3)
        self.tail = _conv(c, phases + masks + latent)
        with torch.no_grad():
            assert self.tail.bias is not None
            self.tail.weight[:phases].mul_(0.3)
            self.tail.weight[phases : phases + masks].zero_()
            self.tail.bias[phases : phases + masks].fill_(math.log(SHARE / (1 - SHARE)))

    # -------------------------------------------------------------- parts

    def enlarge(self, y: Tensor) -> Tensor:
        """(N, 1, h, w) -> phases of the linear enlargement."""
        return F.conv2d(edged(y, BASE_TAPS // 2), self.base)

    def shrink(self, phases: Tensor) -> Tensor:
        """D of an output's phases (N, p, h, w) -> the frame that it would give, (N, 1, h, w).

        Borders are continued by a pixel, which BD's blur reads.
        """
        if self.variant.centred:
            return phases.mean(1, keepdim=True)
        return F.conv2d(edged(phases, 1), self.blur)

    def shrink_output(self, hr: Tensor) -> Tensor:
        """D of an output (N, 1, sh, sw) -> (N, 1, h, w)."""
        if self.variant.centred:
            return F.avg_pool2d(hr, self.variant.scale)
        return self.shrink(F.pixel_unshuffle(hr, self.variant.scale))

    def align(self, y: Tensor, past: Tensor, hr: Tensor, coarse: Tensor | None = None) -> Tensor:
        """Flow from the frame to the past, (N, 2, h, w) in LR pixels; no gradient flows through it.

        Args:
            y: (N, 1, h, w) luma of the frame.
            past: (N, 1, h, w) luma of the frame before.
            hr: (N, 1, sh, sw) luma of the output before.
            coarse: :func:`coarse_flow` of the two frames, where that is known.
        """
        h, w = y.shape[-2:]
        with torch.no_grad():
            current = whole_blocks(y)
            if coarse is None:
                coarse = coarse_flow(current, whole_blocks(past))
            shrunk = whole_blocks(self.shrink_output(hr))
            flow = lucas_kanade(current, shrunk, coarse, 0)
            return finer(flow, STRIDES[0])[..., :h, :w]

    def features(self, x: Tensor) -> Tensor:
        """(N, 2 + p + L, h, w) -> (N, p + M + L, h, w): detail, mask, features."""
        if self.amp is None:
            return self._features(x)
        with torch.autocast(x.device.type, self.amp):
            return self._features(x).float()

    def _features(self, x: Tensor) -> Tensor:
        x = _activate(self.head(x))
        if not self.variant.half_channels:
            return self.tail(_activate(self.body(x)))
        h, w = x.shape[-2:]
        coarse = _activate(self.body(_activate(self.down(x))))
        return self.tail(_activate(x + F.pixel_shuffle(self.up(coarse), 2)[..., :h, :w]))

    def inputs(self, y: Tensor, *past: Tensor) -> Tensor:
        """What the network reads: the frame less its local mean, then what is known of the past."""
        local = F.avg_pool2d(edged(y, LOCAL_TAPS // 2), LOCAL_TAPS, 1)
        return torch.cat((GAIN_FRAME * (y - local), *past), dim=1)

    def split(self, out: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """What the network answers -> detail, mask, and the features as state (none if L is 0)."""
        v = self.variant
        detail, mask, latent = out.split((v.phases, v.masks, v.latent), dim=1)
        latent = (latent.clamp(0.0, MOST),) if v.latent else ()
        return GAIN_DETAIL * detail, torch.sigmoid(mask), latent

    # -------------------------------------------------------------- one step

    def luma_step(
        self, y: Tensor, state: LumaState, coarse: Tensor | None = None
    ) -> tuple[Tensor, LumaState]:
        """Phases of the output's luma, not clamped, and the next state.

        Args:
            y: (N, 1, h, w) luma of the frame.
            state: of the step before.
            coarse: :func:`coarse_flow` of the frame and the one before, where that is known.
        """
        past, hr, *latent = state
        known = (past.amax(dim=(1, 2, 3), keepdim=True) > 0).to(y.dtype)  # (N, 1, 1, 1)
        base = self.enlarge(y)
        flow = self.align(y, past, hr, coarse)
        warped = warp_to_phases(hr, flow)
        latent = [warp(x, flow) for x in latent]
        error = known * (y - self.shrink(warped))  # (N, 1, h, w)
        corrected = warped + F.conv2d(edged(error, 1), self.spread)
        reads = (GAIN_PAST * error, GAIN_PAST * known * (corrected - base), *latent)
        detail, mask, latent = self.split(self.features(self.inputs(y, *reads)))
        result = base + detail
        result = result + mask * (known * trust(edged(error, 1))) * (corrected - result)
        return result, (y, self._shuffled(result).clamp(0.0, 1.0), *latent)

    def first_step(self, y: Tensor) -> tuple[Tensor, LumaState]:
        """What :meth:`luma_step` gives on a zero state, without the work for a past."""
        n, _, h, w = y.shape
        nothing = y.new_zeros(n, 1 + self.variant.phases + self.variant.latent, h, w)
        detail, _, latent = self.split(self.features(self.inputs(y, nothing)))
        result = self.enlarge(y) + detail
        return result, (y, self._shuffled(result).clamp(0.0, 1.0), *latent)

    def _shuffled(self, phases: Tensor) -> Tensor:
        """(N, p, h, w) -> (N, 1, sh, sw)."""
        return F.pixel_shuffle(phases, self.variant.scale)

    def advance(self, lr: Tensor, state: LumaState) -> tuple[Tensor, LumaState]:
        """One recurrent step: the (N, 3, sh, sw) output, not clamped, and the state for the next.

        Args:
            lr: (N, 3, h, w) current frame.
            state: of the last step, or :meth:`initial_state`.
        """
        y = luma_of(lr)
        phases, following = self.luma_step(y, state)
        # A change of luma alone adds the same to R, G and B.
        return self.upsample_func(lr - y) + self._shuffled(phases), following

    def step(self, lr: Tensor, *state: Tensor) -> Tensor:
        """One recurrent step, the output alone; :meth:`advance` also gives the next state."""
        return self.advance(lr, state)[0]

    forward = step

    def initial_state(self, lr: Tensor) -> LumaState:
        """The zero state for frames like ``lr``, (N, 3, h, w) or (N, 1, h, w).

        Raises:
            ModelError: the frame is smaller than 8x8.
        """
        n, _, h, w = lr.shape
        check_size(h, w)
        latent, s = self.variant.latent, self.variant.scale
        state = (lr.new_zeros(n, 1, h, w), lr.new_zeros(n, 1, s * h, s * w))
        return (*state, lr.new_zeros(n, latent, h, w)) if latent else state

    # -------------------------------------------------------------- training

    def luma_sequence(self, y: Tensor, *, forget: bool = False, burn_in: int = 0) -> Tensor:
        """All frames of a scene from the zero state; coarse motion of all pairs in one batch.

        Args:
            y: (N, T, 1, h, w) luma.
            forget: every frame as a first one, to see what the past is worth.
            burn_in: frames 1 to burn_in - 1 are run without gradient, and none flows through them.

        Returns:
            (N, T, p, h, w), phases of the outputs' luma.
        """
        n, t = y.shape[:2]
        coarse: Tensor | None = None
        if t > 1 and not forget:
            with torch.no_grad():
                pairs = (y[:, 1:].flatten(0, 1), y[:, :-1].flatten(0, 1))
                coarse = coarse_flow(*(whole_blocks(x) for x in pairs)).unflatten(0, (n, t - 1))
        out, state = self.first_step(y[:, 0])
        outputs = [out]
        for i in range(1, t):
            with torch.set_grad_enabled(torch.is_grad_enabled() and not i < burn_in):
                if coarse is None:
                    out, state = self.first_step(y[:, i])
                else:
                    out, state = self.luma_step(y[:, i], state, coarse[:, i - 1])
            outputs.append(out)
        return torch.stack(outputs, dim=1)

    def sequence(self, lr: Tensor, *, burn_in: int = 0) -> tuple[Tensor, None]:
        """All frames of a scene in colour, (N, T, 3, h, w) -> (N, T, 3, sh, sw), not clamped.

        Returns the outputs, and None where :meth:`teco_models.arch.generator.Generator.sequence`
        gives the flow that it learns: this one has nothing to learn.
        """
        y = luma_of(lr.flatten(0, 1)).unflatten(0, lr.shape[:2])
        return self.in_colour(lr, self.luma_sequence(y, burn_in=burn_in)), None

    def in_colour(self, lr: Tensor, phases: Tensor) -> Tensor:
        """Frames (N, T, 3, h, w) and phases of the outputs' luma (N, T, p, h, w) -> (N, T, 3, sh,
        sw), not clamped."""
        frames = lr.flatten(0, 1)
        colours = self.upsample_func(frames - luma_of(frames))
        whole = colours + self._shuffled(phases.flatten(0, 1))
        return whole.unflatten(0, lr.shape[:2])

    def flow(self, current: Tensor, previous: Tensor) -> Tensor:
        """Motion between two frames, (N, 3, h, w) each -> (N, 2, h, w) LR pixels, without gradient.

        For the discriminator, which looks at frames that are warped onto each other.
        """
        h, w = current.shape[-2:]
        with torch.no_grad():
            now, then = (whole_blocks(luma_of(x)) for x in (current, previous))
            flow = lucas_kanade(now, then, coarse_flow(now, then), 0)
            return finer(flow, STRIDES[0])[..., :h, :w]

    def upsample_func(self, x: Tensor) -> Tensor:
        """:func:`bicubic`, under the name by which the discriminator asks a generator for it."""
        return bicubic(x, self.variant.scale, self.variant.centred)

    def quieten_past(self, gain: float) -> None:
        """Scale the weights that read the past.

        After training on single frames, where the past was always zero, they are still what chance
        made them.
        """
        with torch.no_grad():
            self.head.weight[:, 1:] *= gain
