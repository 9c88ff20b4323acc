"""The export-only form of the step: the same function, arranged for inference runtimes.

The generator reads like the paper; this module holds what a deployed graph wants instead. Every
rewrite is exact (differences are rounding only; :mod:`teco.exporting.onnx` proves it on each file):

1. Cubic upsampling is one 4x4 convolution to 16 phases per channel, at LR.
2. The sampling grid stays in that LR layout, one row block per phase, so the warp's output *is*
   the space-to-depth form and no HR picture is ever rearranged. The order of its channels is put
   right in the weights of the convolution that reads it.
3. A transposed convolution becomes four small convolutions, one per output phase, with exactly
   the taps that phase reads. After the second one, the output convolution becomes four 2x2
   convolutions, one per phase, whose sum is the picture in four phases: the widest tensors never
   exist at HR size and no multiplication by zero is added.
4. Without a flow net nothing reads the previous picture as a picture, so its phases are the state
   (``phases``), and pixels are only made for the eye.
5. Back-projection stays in phases: two dense 3x3 convolutions, and everything it adds to the
   picture, the LR residual included, becomes pixels in one go with it.
6. Phases become pixels by stacking and concatenation, which ONNX Runtime does faster than
   DepthToSpace; OpenVINO does not, see TARGETS.
7. Where the past is sampled is the flow plus a position, whose x depends on the column alone and
   whose y on the row; so a row and a column are added rather than a table of the grid's size, which
   a builder stores in the engine and every step reads (66 MB for a picture of 4K).

Half precision, which is no rewrite: convolutions of FNet and SRNet have float16 weights and run on
float16 tensors, and what lies between them (ReLU, pooling, bilinear upsampling, the blocks' sums)
follows. Everything that is a position, a picture or a state stays float32: FNet's normalisation
(means over a whole frame) and its tanh, the flow and its refinement, the grid and the warp, the
error and correction of back-projection, the upsampled frame, the mask and the sum that makes the
picture. Casts stand where the two meet and nowhere else; ports are float32. What an engine in int8
does not quantise is arranged likewise.

Shape legend: h x w the LR size, s = 4, C channels. Batch is 1.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from teco_models.arch.backprojection import PHASES, BackProjection, trust
from teco_models.arch.generator import FNet, Generator, SRNet
from teco_models.arch.ops import CUBIC_KERNELS, SCALE, space_to_depth, warp

Precision = Literal["fp32", "fp16"]
"""Of the convolutions; see the module's description."""

PHASES_X2 = tuple(product(range(2), range(2)))
"""(row, column) phases of a x2 upsampling."""


@dataclass(frozen=True, kw_only=True)
class Rewrites:
    """Which exact rewrites a graph uses; what is best depends on the runtime.

    Attributes:
        phase_warp: 1 and 2 above, for the flow and the warp.
        phase_residual: 1 for the LR residual.
        phase_tail: 3 for the second transposed convolution and the output convolution.
        phase_up: 3 for the first transposed convolution, its phases joined as in 6.
        stack_pixels: 6 for the picture and the residual; DepthToSpace where it is off.
        split_input: SRNet's first convolution in two, one per input. 48 channels suit runtimes
            that block channels by 8 or 16; 51 do not, and force a change of layout.
    """

    phase_warp: bool = True
    phase_residual: bool = True
    phase_tail: bool = True
    phase_up: bool = True
    stack_pixels: bool = True
    split_input: bool = True


@dataclass(frozen=True, kw_only=True)
class EngineRewrites(Rewrites):
    """What engines have besides.

    Attributes:
        grid_by_axes: 7 above.
    """

    grid_by_axes: bool = True


TARGETS: dict[str, Rewrites] = {
    "onnxruntime": Rewrites(),
    # OpenVINO has a fast transposed convolution and a fast DepthToSpace; stacking is slow there.
    "openvino": Rewrites(phase_up=False, stack_pixels=False),
    # By bytes counted (scripts/count_traffic.py), which decide on a GPU; nobody has measured its
    # speed yet. A transposed convolution reads its input once, four phases read it four times, and
    # stacking writes it once more. Without stacking TensorRT-RTX also builds the same bytes each
    # time for SM 75, see teco.exporting.engines.rtx.
    "tensorrt": EngineRewrites(phase_up=False, phase_tail=False, stack_pixels=False),
    # No stacking in a browser either: a WebGPU shader reads 8 tensors or so, and that takes 16.
    # teco.exporting.web_graph does the rest of what browsers want.
    "web": Rewrites(stack_pixels=False),
}
"""What measured fastest per runtime on a two-core AVX-512 machine, 3 blocks at 180x320 (ms):
ONNX Runtime 413 and 433, OpenVINO f32 480 and 395, bf16 275 and 206; as PyTorch exports it 592,
434 and 226. scripts/bench_deploy.py measures it again."""


def cubic_phase_weight(channels: int) -> Tensor:
    """(16 * channels, 1, 4, 4) for a grouped convolution; output channel = c * 16 + dy * 4 + dx."""
    k = torch.tensor(CUBIC_KERNELS, dtype=torch.float64)
    phases = torch.einsum("ai,bj->abij", k, k).reshape(PHASES, 1, 4, 4)
    return phases.repeat(channels, 1, 1, 1).float()


def bilinear_phase_weight(channels: int) -> Tensor:
    """The same form for half-pixel bilinear x4: offsets -3/8, -1/8, 1/8, 3/8, taps i-1, i, i+1."""
    rows = torch.tensor(
        [[0.375, 0.625, 0, 0], [0.125, 0.875, 0, 0], [0, 0.875, 0.125, 0], [0, 0.625, 0.375, 0]],
        dtype=torch.float64,
    )
    phases = torch.einsum("ai,bj->abij", rows, rows).reshape(PHASES, 1, 4, 4)
    return phases.repeat(channels, 1, 1, 1).float()


TRANSPOSED_TAPS = ({0: 1}, {0: 2, 1: 0})
"""Along one axis, for output phase p of ConvTranspose(k3, s2, p1, output_padding 1): input offset
-> kernel index. Output 2i reads tap 1 of input i; output 2i + 1 taps 2 of i and 0 of i + 1."""


def transposed_phase(weight: Tensor, py: int, px: int) -> Tensor:
    """The part of a stride-2 transposed convolution that makes output pixels (2i + py, 2j + px).

    Args:
        weight: (Cin, Cout, 3, 3).
        py: row phase, 0 or 1.
        px: column phase, 0 or 1.

    Returns:
        (Cout, Cin, 1 + py, 1 + px), to be applied after padding py rows of zeros at the bottom and
        px columns at the right.
    """
    cin, cout = weight.shape[:2]
    out = weight.new_zeros(cout, cin, 1 + py, 1 + px)
    for dy, ky in TRANSPOSED_TAPS[py].items():
        for dx, kx in TRANSPOSED_TAPS[px].items():
            out[:, :, dy, dx] = weight[:, :, ky, kx].T
    return out


def output_phase(weight: Tensor, py: int, px: int) -> Tensor:
    """The part of a 3x3 convolution after a x2 interleaving that reads input phase (py, px).

    Args:
        weight: (Cout, C, 3, 3) at the fine size.
        py: row phase, 0 or 1.
        px: column phase, 0 or 1.

    Returns:
        (4 * Cout, C, 2, 2) at the coarse size with output channel = (qy * 2 + qx) * Cout + c. Its
        rows lie at the offsets 0 and 1 for py = 0, -1 and 0 for py = 1 (columns likewise), so pad
        zeros at the bottom (right) or at the top (left).
    """
    cout, c = weight.shape[:2]
    out = weight.new_zeros(2, 2, cout, c, 2, 2)  # (qy, qx, o, c, row, column)
    for qy, qx, ky, kx in product(range(2), range(2), range(3), range(3)):
        # The fine position this tap reads, relative to the coarse pixel: (coarse offset, phase).
        (dy, phase_y), (dx, phase_x) = divmod(qy + ky - 1, 2), divmod(qx + kx - 1, 2)
        if (phase_y, phase_x) == (py, px):
            out[qy, qx, :, :, dy + py, dx + px] = weight[:, :, ky, kx]
    return out.reshape(cout * 4, c, 2, 2)


def deploy_step(
    generator: Generator, rewrites: Rewrites | None = None, precision: Precision = "fp32"
) -> nn.Module:
    """The deploy form of a generator's step, in eval mode; its arguments are the graph's inputs.

    Args:
        generator: float32 weights; in eval mode. It stays as it is; in float32 the result goes on
            using its tensors.
        rewrites: which rewrites to apply.
        precision: of the convolutions. Inputs and outputs are float32 with either.
    """
    kind = DeployStep if generator.variant.has_flow else FreeStep
    if precision == "fp32":
        return kind(generator, rewrites).eval()
    step = kind(deepcopy(generator), rewrites, torch.float16).eval()
    for module in step.modules():
        # Constants of the float32 islands are buffers of other modules, and stay.
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.half()
    return step


class _Step(nn.Module):
    """What both forms share: upsampling by phases, and the tail.

    Args:
        generator: float32 weights, which this module goes on using; in eval mode.
        rewrites: which rewrites to apply.
        inner: type of the tensors that convolutions take and give; the convolutions' own is set by
            :func:`deploy_step`.
    """

    residual_phases: Tensor
    residual_by_colour: Tensor

    def __init__(
        self,
        generator: Generator,
        rewrites: Rewrites | None = None,
        inner: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.inner = inner
        self.rewrites = rewrites or Rewrites()
        self.variant = generator.variant
        self.generator = generator
        # Dense, because its outputs are wanted by phase and a grouped one gives them by channel.
        kernels = self._phase_weight(1)  # (16, 1, 4, 4)
        self.register_buffer(
            "residual_phases", torch.einsum("pkyx,cd->pcdyx", kernels, torch.eye(3)).flatten(0, 1)
        )
        # Zero taps beyond what bilinear reads cost nothing, so both kinds pad alike.
        self.phase_pad = (1, 2, 1, 2)
        self.up1 = nn.ModuleList()
        self.up2 = nn.ModuleList()
        self.out = nn.ModuleList()
        if self.variant.tail == "transposed":
            self._arrange_tail(generator.srnet)
        self._arrange()

    def _arrange(self) -> None:
        """Put the weights of SRNet's beginning, and of what lies before it, in place."""
        raise NotImplementedError

    def _phase_weight(self, channels: int) -> Tensor:
        """The degradation's upsampling, by phases."""
        bd = self.variant.degradation == "bd"
        return cubic_phase_weight(channels) if bd else bilinear_phase_weight(channels)

    def _arrange_tail(self, srnet: SRNet) -> None:
        """The transposed convolutions, one convolution for each phase."""
        up1, up2 = srnet.conv_up[0], srnet.conv_up[2]
        assert isinstance(up1, nn.ConvTranspose2d)
        assert isinstance(up2, nn.ConvTranspose2d)
        for py, px in PHASES_X2:
            if self.rewrites.phase_up:
                self.up1.append(_conv(transposed_phase(up1.weight.detach(), py, px), up1.bias))
            if self.rewrites.phase_tail:
                self.up2.append(_conv(transposed_phase(up2.weight.detach(), py, px), up2.bias))
                # The bias belongs to the sum of the four, so only one of them carries it.
                bias = srnet.conv_out.bias if (py, px) == (0, 0) else None
                out = output_phase(srnet.conv_out.weight.detach(), py, px)
                self.out.append(_conv(out, None if bias is None else bias.repeat(4)))

    def _in(self, x: Tensor) -> Tensor:
        """From float32 to what convolutions take."""
        return as_dtype(x, self.inner)

    def _tail(self, x: Tensor) -> Tensor:
        """(1, C, h, w) -> (1, 3, 4h, 4w) float32 without the residual."""
        return as_dtype(self._tail_inner(x), torch.float32)

    def _tail_inner(self, x: Tensor) -> Tensor:
        """The same, as the convolutions give it."""
        srnet = self.generator.srnet
        if self.variant.tail == "shuffle":
            return F.pixel_shuffle(srnet.conv_shuffle(x), SCALE)
        if self.variant.tail == "egvsr":
            return srnet.conv_out(F.relu(F.pixel_shuffle(x, SCALE)))
        if self.rewrites.phase_up:
            x = interleave(
                [F.relu(_phase(up, x, p)) for p, up in zip(PHASES_X2, self.up1, strict=True)]
            )
        else:
            x = F.relu(srnet.conv_up[0](x))
        if not self.rewrites.phase_tail:
            return srnet.conv_out(F.relu(srnet.conv_up[2](x)))
        total: Tensor | None = None
        for (py, px), up, out in zip(PHASES_X2, self.up2, self.out, strict=True):
            y = F.relu(_phase(up, x, (py, px)))  # (1, C, 2h, 2w)
            y = out(F.pad(y, (px, 1 - px, py, 1 - py)))  # (1, 12, 2h, 2w)
            total = y if total is None else total + y
        assert total is not None
        return self._pixels(total)

    def _pixels(self, phases: Tensor) -> Tensor:
        """(1, P * 3, h, w) with channel = phase * 3 + c -> (1, 3, sqrt(P) h, sqrt(P) w)."""
        count = phases.shape[1] // 3
        if self.rewrites.stack_pixels:
            return interleave(list(phases.chunk(count, dim=1)))
        n, _, h, w = phases.shape
        # pixel_shuffle wants channel = c * phases + phase.
        x = phases.view(n, count, 3, h, w).transpose(1, 2).reshape(n, 3 * count, h, w)
        return F.pixel_shuffle(x, round(count**0.5))

    def _residual(self, lr: Tensor) -> Tensor:
        """The upsampled frame, (1, 3, 4h, 4w)."""
        if not self.rewrites.phase_residual:
            assert self.generator.srnet.upsample_func is not None
            return self.generator.srnet.upsample_func(lr)
        return self._pixels(self._residual_phases(lr))

    def _keep_residual_by_colour(self) -> None:
        """Make :meth:`_residual_by_colour` possible."""
        kernels = self.residual_phases.unflatten(0, (PHASES, 3)).transpose(0, 1).flatten(0, 1)
        self.register_buffer("residual_by_colour", kernels.contiguous())

    def _residual_by_colour(self, lr: Tensor) -> Tensor:
        """The upsampled frame in phases, (1, 48, h, w) with channel = c * 16 + phase."""
        x = F.pad(lr, self.phase_pad, mode="replicate")
        return F.conv2d(x, self.residual_by_colour)

    def _residual_phases(self, lr: Tensor) -> Tensor:
        """The upsampled frame in phases, (1, 48, h, w) with channel = phase * 3 + c."""
        x = F.pad(lr, self.phase_pad, mode="replicate")
        return F.conv2d(x, self.residual_phases)


class DeployStep(_Step):
    """One recurrent step of a variant with a flow net, flat, named tensors in and out."""

    flow_phases: Tensor
    blur: Tensor
    spread: Tensor

    def _arrange(self) -> None:
        generator, inner = self.generator, self.inner
        self.register_buffer("flow_phases", self._phase_weight(2) * SCALE)
        assert generator.fnet is not None
        self.fnet = generator.fnet if inner == torch.float32 else _bordered(generator.fnet, inner)
        self.refine = generator.refine
        conv_in = generator.srnet.conv_in[0]
        assert isinstance(conv_in, nn.Conv2d)
        frame, past = conv_in.weight.detach().split((3, 3 * PHASES), dim=1)
        self.back = generator.srnet.back
        self.by_colour = self.rewrites.phase_warp or self.back is not None
        if self.by_colour:
            # The past comes as channel = c * 16 + phase, the weights expect phase * 3 + c.
            past = past.reshape(-1, PHASES, 3, 3, 3).transpose(1, 2).reshape(past.shape)
        if self.back is not None:
            self._dense_back_projection(self.back)
        if self.rewrites.split_input:
            self.frame_in = _conv(frame, conv_in.bias, padding=1)
            self.past_in = _conv(past, None, padding=1)
        else:
            self.conv_in = _conv(torch.cat((frame, past), dim=1), conv_in.bias, padding=1)

    def _dense_back_projection(self, back: BackProjection) -> None:
        """Its two convolutions over all channels at once, in the order c * 16 + phase."""
        blur = back.blur.unflatten(1, (PHASES, 3)).transpose(1, 2).flatten(1, 2)
        spread = back.spread.detach()  # (16, 1, 3, 3)
        dense = torch.einsum("pkyx,cd->cpdyx", spread, torch.eye(3)).flatten(0, 1)
        self.register_buffer("blur", -blur.contiguous())  # of lr - D(past), the second part
        self.register_buffer("spread", dense)  # (48, 3, 3, 3)
        self._keep_residual_by_colour()

    def forward(self, lr: Tensor, lr_prev: Tensor, hr_prev: Tensor) -> Tensor:
        """(1, 3, h, w), (1, 3, h, w), (1, 3, 4h, 4w) -> (1, 3, 4h, 4w)."""
        flow = self._flow(lr, lr_prev)
        if self.refine is not None:
            flow = flow + self.refine.correction(lr, _warped(lr_prev, flow))
        if self.rewrites.phase_warp:
            past = self._warp_phases(hr_prev, flow)
        else:
            past = warp(hr_prev, SCALE * self.generator.upsample_func(flow))
            past = F.pixel_unshuffle(past, SCALE) if self.by_colour else space_to_depth(past)
        trusted: Tensor | None = None
        if self.back is not None:
            past, trusted = self._correct(lr, past, self.back.known(lr_prev))
        if self.rewrites.split_input:
            x = F.relu(self.past_in(self._in(past)) + self.frame_in(self._in(lr)))
        else:
            x = F.relu(self.conv_in(self._in(torch.cat((lr, past), dim=1))))
        srnet = self.generator.srnet
        x = srnet.resblocks(x)
        if trusted is not None:
            return self._blend(x, lr, past, trusted)
        x = self._tail(x)
        if not self.variant.has_residual:
            return x
        return x + self._residual(lr)

    def _correct(self, lr: Tensor, past: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """The past after back-projection, (1, 48, h, w) with channel = c * 16 + phase, and the
        (1, 1, h, w) trust in it."""
        edge = (1, 1, 1, 1)
        error = lr + F.conv2d(F.pad(past, edge, mode="replicate"), self.blur)
        error = F.pad(error, edge, mode="replicate")
        return past + known * F.conv2d(error, self.spread), known * trust(error)

    def _blend(self, features: Tensor, lr: Tensor, past: Tensor, trusted: Tensor) -> Tensor:
        """Tail t, residual r, past p and mask m: t + r + m (p - t - r), all but t in phases.

        That is (1 - m) t + (r + m (p - r)), so no more than the mask and the bracket become pixels.
        """
        assert self.back is not None
        n, _, h, w = past.shape
        mask = as_dtype(self.back.mask(features), torch.float32)
        mask = trusted * torch.sigmoid(mask)  # (1, 16, h, w)
        by_colour = (n, 3, PHASES, h, w)
        rest = past.view(by_colour) * mask.unsqueeze(1)
        if self.variant.has_residual:
            residual = self._residual_by_colour(lr).view(by_colour)
            rest = residual + (past.view(by_colour) - residual) * mask.unsqueeze(1)
        tail = self._tail(features)
        return tail * self._pixels_by_colour(1 - mask) + self._pixels_by_colour(rest.flatten(1, 2))

    def _pixels_by_colour(self, phases: Tensor) -> Tensor:
        """(1, c * 16, h, w) with channel = c * 16 + phase -> (1, c, 4h, 4w)."""
        if not self.rewrites.stack_pixels:
            return F.pixel_shuffle(phases, SCALE)
        _, channels, h, w = phases.shape
        # Colours as a batch: each phase is then a slice of its own.
        x = interleave(list(phases.view(channels // PHASES, PHASES, h, w).chunk(PHASES, dim=1)))
        return x.view(1, channels // PHASES, SCALE * h, SCALE * w)

    def _flow(self, lr: Tensor, lr_prev: Tensor) -> Tensor:
        """(1, 2, h, w), mirrored at the bottom and right where FNet's output ends."""
        h, w = lr.shape[-2:]
        flow = self.fnet(lr, lr_prev)
        # While a dynamic size is exported h and w are symbols, of which nothing is known.
        symbolic = type(h) is not int or type(w) is not int
        if not symbolic and h % 8 == w % 8 == 0:
            return flow
        # Mirroring as a gather: a Pad node with computed amounts stops runtimes from planning.
        rows, cols = _mirrored(h, lr.device), _mirrored(w, lr.device)
        return flow.index_select(2, rows).index_select(3, cols)

    def _warp_phases(self, hr_prev: Tensor, flow: Tensor) -> Tensor:
        """Warp straight into space-to-depth form: (1, 48, h, w), channel = c * 16 + phase."""
        h, w = flow.shape[-2:]
        device = flow.device
        phase = torch.arange(SCALE, device=device, dtype=torch.float32)
        x = torch.arange(w, device=device, dtype=torch.float32) * SCALE
        y = torch.arange(h, device=device, dtype=torch.float32) * SCALE
        # Pixels to the grid's [-1, 1], on the small flow rather than on its sixteen phases. The
        # last pixel is 4w - 1, taken from the coordinates so that a dynamic size stays a tensor.
        scale = 2 / (torch.cat((x[-1:], y[-1:])) + SCALE - 1)
        flow = F.pad(flow * scale.view(1, 2, 1, 1), self.phase_pad, mode="replicate")
        flow = F.conv2d(flow, self.flow_phases, groups=2)  # (1, 2 * 16, h, w)
        if isinstance(self.rewrites, EngineRewrites) and self.rewrites.grid_by_axes:
            grid = _grid_by_axes(flow, phase, x, y, scale)
            return self._sampled(hr_prev, grid, h, w)
        # Where each phase of each LR pixel lies at HR: (dy, dx, h, w), the order of the phases.
        x = (phase.view(1, SCALE, 1, 1) + x.view(1, 1, 1, -1)).expand(SCALE, SCALE, h, w)
        y = (phase.view(SCALE, 1, 1, 1) + y.view(1, 1, -1, 1)).expand(SCALE, SCALE, h, w)
        base = torch.stack((x.reshape(PHASES * h, w), y.reshape(PHASES * h, w)), dim=-1)
        # Stacked rather than permuted, for the reason of rewrite 6.
        flow_x, flow_y = (f.view(1, PHASES * h, w) for f in flow.chunk(2, dim=1))
        grid = torch.stack((flow_x, flow_y), dim=-1)  # (1, 16h, w, 2)
        return self._sampled(hr_prev, grid + (base * scale - 1), h, w)

    @staticmethod
    def _sampled(hr_prev: Tensor, grid: Tensor, h: int, w: int) -> Tensor:
        """(1, 3, 4h, 4w) at (1, 16h, w, 2) -> (1, 48, h, w)."""
        past = F.grid_sample(
            hr_prev, grid, mode="bilinear", padding_mode="border", align_corners=True
        )  # (1, 3, 16h, w)
        return past.view(1, 3 * PHASES, h, w)


class FreeStep(_Step):
    """One recurrent step of a variant without a flow net; the state is phases and features.

    The phases' channel is phase * 3 + c where pixels are made by stacking, else c * 16 + phase.
    The rewrites of the flow and the warp have nothing to do here.
    """

    def _arrange(self) -> None:
        generator = self.generator
        conv_in = generator.srnet.conv_in[0]
        assert isinstance(conv_in, nn.Conv2d)
        widths = (3, 3 * PHASES, 3, self.variant.channels)
        lr, past, lr_prev, latent = conv_in.weight.detach().split(widths, dim=1)
        # The phases are kept in the order in which they become pixels fastest.
        self.by_phase = self.rewrites.stack_pixels
        if not self.by_phase:
            past = past.unflatten(1, (PHASES, 3)).transpose(1, 2).flatten(1, 2)
        if self.rewrites.split_input:
            # The two frames, which are narrow, and what is a multiple of 8 or 16 wide.
            self.frames_in = _conv(torch.cat((lr, lr_prev), dim=1), conv_in.bias, padding=1)
            self.past_in = _conv(torch.cat((past, latent), dim=1), None, padding=1)
        else:
            whole = torch.cat((lr, past, lr_prev, latent), dim=1)
            self.conv_in = _conv(whole, conv_in.bias, padding=1)
        if self.variant.tail == "shuffle":
            # conv_shuffle answers in pixel_shuffle's order, c * 16 + phase.
            out = generator.srnet.conv_shuffle
            assert out.bias is not None
            weight, bias = out.weight.detach(), out.bias.detach()
            if self.by_phase:
                weight, bias = (
                    x.unflatten(0, (3, PHASES)).transpose(0, 1).flatten(0, 1)
                    for x in (weight, bias)
                )
            self.phases_out = _conv(weight, bias, padding=1)
        if not self.by_phase:
            self._keep_residual_by_colour()

    def forward(
        self, lr: Tensor, lr_prev: Tensor, phases_prev: Tensor, latent_prev: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(1, 3, h, w) twice, (1, 48, h, w), (1, C, h, w) -> picture, next phases, next latent."""
        if self.rewrites.split_input:
            frames = self.frames_in(self._in(torch.cat((lr, lr_prev), dim=1)))
            past = self.past_in(self._in(torch.cat((phases_prev, latent_prev), dim=1)))
            x = F.relu(past + frames)
        else:
            whole = torch.cat((lr, phases_prev, lr_prev, latent_prev), dim=1)
            x = F.relu(self.conv_in(self._in(whole)))
        x = self.generator.srnet.resblocks(x)
        latent = as_dtype(F.relu(x), torch.float32)
        if self.variant.tail == "shuffle" and self.rewrites.phase_residual:
            phases = as_dtype(self.phases_out(x), torch.float32)
            if self.by_phase:
                phases = phases + self._residual_phases(lr)
                return self._pixels(phases), phases, latent
            phases = phases + self._residual_by_colour(lr)
            return F.pixel_shuffle(phases, SCALE), phases, latent
        picture = self._tail(x)
        if self.variant.has_residual:
            picture = picture + self._residual(lr)
        phases = space_to_depth(picture) if self.by_phase else F.pixel_unshuffle(picture, SCALE)
        return picture, phases, latent


class _Cast(nn.Module):
    """A border between precisions, as a module."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        return x.to(self.dtype)


def _bordered(fnet: FNet, inner: torch.dtype) -> FNet:
    """FNet between its float32 normalisation and its float32 tanh; ``fnet`` itself is changed."""
    fnet.add_module("norm", nn.Sequential(fnet.norm, _Cast(inner)))
    fnet.flow.append(_Cast(torch.float32))
    return fnet


def as_dtype(x: Tensor, dtype: torch.dtype) -> Tensor:
    """A cast where one is needed, so that a float32 graph holds none."""
    return x if x.dtype == dtype else x.to(dtype)


def _warped(frame: Tensor, flow: Tensor) -> Tensor:
    """:func:`teco_models.arch.ops.warp` for (1, 3, h, w) of any size: no size is a number here."""
    h, w = flow.shape[-2:]
    x = torch.arange(w, device=flow.device, dtype=torch.float32)
    y = torch.arange(h, device=flow.device, dtype=torch.float32)
    gx = (flow[:, 0] + x) * (2 / x[-1:]) - 1
    gy = (flow[:, 1] + y[:, None]) * (2 / y[-1:]) - 1
    grid = torch.stack((gx, gy), dim=-1)
    return F.grid_sample(frame, grid, mode="bilinear", padding_mode="border", align_corners=True)


def _grid_by_axes(flow: Tensor, phase: Tensor, x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    """Where to sample the past by phases, in grid_sample's [-1, 1].

    Args:
        flow: (1, 2 * 16, h, w), in that unit.
        phase: (4,), HR pixels.
        x, y: (w,) and (h,), the first phase of each column and row in HR pixels.
        scale: (2,), that unit of a pixel across and down.

    Returns:
        (1, 16h, w, 2).
    """
    h, w = flow.shape[-2:]
    across = (phase.view(1, SCALE, 1, 1) + x) * scale[:1] - 1  # (1, 4, 1, w)
    down = (phase.view(SCALE, 1, 1, 1) + y.view(h, 1)) * scale[1:] - 1  # (4, 1, h, 1)
    flow_x, flow_y = (f.view(SCALE, SCALE, h, w) for f in flow.chunk(2, dim=1))
    places = (flow_x + across, flow_y + down)
    return torch.stack([p.view(1, PHASES * h, w) for p in places], dim=-1)


def interleave(phases: list[Tensor]) -> Tensor:
    """p * p phases of (n, c, h, w), row by row, -> (n, c, p h, p w)."""
    n, c, h, w = phases[0].shape
    p = round(len(phases) ** 0.5)
    # Rows first: they are copied in runs, and so the pass that copies single values is the last.
    columns = [
        torch.cat([x.unsqueeze(3) for x in phases[i::p]], dim=3).view(n, c, p * h, w)
        for i in range(p)
    ]
    return torch.stack(columns, dim=-1).view(n, c, p * h, p * w)


def _phase(up: nn.Module, x: Tensor, phase: tuple[int, int]) -> Tensor:
    """One output phase of a transposed convolution, see :func:`transposed_phase`."""
    py, px = phase
    return up(F.pad(x, (0, px, 0, py)))


def _conv(weight: Tensor, bias: Tensor | None, padding: int = 0) -> nn.Conv2d:
    """A convolution with these values."""
    cout, cin, kh, kw = weight.shape
    conv = nn.Conv2d(cin, cout, (kh, kw), padding=padding, bias=bias is not None)
    with torch.no_grad():
        conv.weight.copy_(weight)
        if conv.bias is not None and bias is not None:
            conv.bias.copy_(bias)
    return conv


def _mirrored(size: int, device: torch.device) -> Tensor:
    """Row (or column) indices 0 .. size-1 into an output that ends at floor(size / 8) * 8."""
    end = size // 8 * 8
    index = torch.arange(size, device=device)
    return torch.where(index < end, index, 2 * (end - 1) - index)
