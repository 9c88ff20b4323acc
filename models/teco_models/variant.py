"""One point of the network family: its name, its fields and what it costs. No torch here.

Shape legend: h, w = size of the low-resolution (LR) frame; C = ``channels``;
F = ``flow_channels``. All costs are for one recurrent step on one frame.

``flow_channels = 0`` leaves FNet and the warp out: SRNet sees the previous LR frame, the previous
output where it lies, and its own last feature maps, and finds the motion within its receptive
field. That is RLSP's recurrence (Fuoli et al. 2019) in TecoGAN's generator, for budgets of which
flow and warp would take half.

``alignment = "computed"`` is another generator (:mod:`teco_models.arch.computed_alignment`): on
luma, with a flow that is computed and needs no network; for ordinary clips (``"real"``) and for BD.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from teco_models.errors import ModelError

Tail = Literal["transposed", "shuffle", "egvsr"]
Degradation = Literal["bd", "bi", "real"]
Alignment = Literal["learned", "computed"]
FlowNorm = Literal["pair", "raw"]

SCALE = 4
"""Upsampling factor of the papers' networks: TecoGAN, its PyTorch port and EGVSR are all x4."""

SCALES = (2, 4)
"""Upsampling factors that there are networks for; 2 with the real degradation alone."""

MIN_SIZE = 8
"""Smallest LR height and width: FNet halves its input three times."""

_NAME = re.compile(
    r"teco-x(?P<scale>\d+)-b(?P<blocks>\d+)-c(?P<channels>\d+)"
    r"(?:-f(?P<flow>\d+))?(?:-(?P<tail>shuffle|egvsr))?(?P<bp>-bp)?(?P<lk>-lk)?(?P<raw>-raw)?(?P<bi>-bi)?"
)

_COMPUTED_NAME = re.compile(
    r"teco-x(?P<scale>\d+)-b(?P<blocks>\d+)-c(?P<channels>\d+)"
    r"(?:-h(?P<half_channels>\d+))?(?:-l(?P<latent>\d+))?(?:-m(?P<masks>\d+))?-(?P<degradation>real|bd)"
)


@dataclass(frozen=True)
class Layer:
    """One tensor-producing operation of a step, in execution order.

    Attributes:
        name: name of the output tensor.
        part: ``"fnet"``, ``"srnet"`` or ``"warp"`` (everything between the two networks).
        shape: (channels, height, width) of the output.
        inputs: names of the tensors it reads.
        macs: multiply-accumulates of its convolution, 0 for anything else. A transposed
            convolution is counted at its input resolution (each input pixel meets each tap once).
        params: learnable parameters, biases included.
    """

    name: str
    part: str
    shape: tuple[int, int, int]
    inputs: tuple[str, ...]
    macs: int = 0
    params: int = 0

    @property
    def elements(self) -> int:
        c, h, w = self.shape
        return c * h * w


@dataclass(frozen=True)
class Cost:
    """What one step costs at one size.

    Attributes:
        params: parameters per part and in ``"total"``.
        macs: multiply-accumulates of the convolutions, per part and in ``"total"``, counted as the
            published tables count (see ``nominal`` of :meth:`Variant.layers`).
        executed_macs: the same for the sizes that really run.
        activation_elements: largest number of tensor elements alive at once when layers run in
            order and a tensor is freed after its last reader (the recurrent state included).
        state_elements: elements of the recurrent state alone.
    """

    params: dict[str, int]
    macs: dict[str, int]
    executed_macs: dict[str, int]
    activation_elements: int
    state_elements: int

    @property
    def gflop(self) -> float:
        """2 x MAC of the convolutions / 1e9, as the published tables count."""
        return 2 * self.macs["total"] / 1e9

    @property
    def executed_gflop(self) -> float:
        """2 x MAC of the convolutions / 1e9, at the sizes that really run."""
        return 2 * self.executed_macs["total"] / 1e9


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A member of the family. Weights decide it (:mod:`teco_models.checkpoint`), never a config.

    Attributes:
        blocks: residual blocks of SRNet (TecoGAN: 16 or 10; the pruned family: 9/7/5/3/1).
        channels: width of SRNet.
        flow_channels: width of FNet's first stage; the others are 2x, 4x and 8x. 0: no flow net
            and no warp, a latent state of C maps instead.
        tail: ``"transposed"`` two stride-2 transposed convolutions and a 3x3 convolution at HR
            (TecoGAN); ``"shuffle"`` one 3x3 convolution to 48 channels and a pixel shuffle;
            ``"egvsr"`` a pixel shuffle of all channels, ReLU and a 3x3 convolution at HR, with no
            upsampled frame added (EGVSR, egvsr_nets.py).
        degradation: ``"bd"`` (Gaussian blur, phase-aligned cubic residual), ``"bi"`` (MATLAB
            bicubic, bilinear residual), or ``"real"`` (shrunk about pixel centres and compressed).
        alignment: ``"learned"`` by FNet, or by SRNet where ``flow_channels`` is 0; ``"computed"``
            by Lucas-Kanade, on luma, so that ``flow_channels``, ``tail``, ``flow_norm``,
            ``back_projection`` and ``lucas_kanade`` say nothing. "real" is always computed, "bd"
            either way, "bi" never.
        flow_norm: ``"pair"`` FNet's two input frames are shifted and scaled by their common mean
            and deviation, without which it hardly learns from a cold start; ``"raw"`` as published.
        back_projection: the past is corrected by the frame before SRNet reads it, and mixed into
            the output (:mod:`teco_models.arch.backprojection`); with a flow net and BD only.
        lucas_kanade: FNet's flow is refined by one Lucas-Kanade step
            (:mod:`teco_models.arch.lucas_kanade`).
        latent: of computed alignment alone: feature maps that are handed from step to step; 0:
            none.
        masks: of computed alignment alone: 1, the mask is the same for all phases of an LR pixel;
            or as many as there are phases, 16 of scale 4.
        half_channels: of computed alignment alone: width of the residual blocks, which then run at
            half the LR size; 0: they run at the LR size, ``channels`` wide.
        scale: 4, or with "real" 2: how many times as high and wide the picture is.
    """

    blocks: int = 10
    channels: int = 64
    flow_channels: int = 32
    tail: Tail = "transposed"
    degradation: Degradation = "bd"
    flow_norm: FlowNorm = "pair"
    back_projection: bool = False
    lucas_kanade: bool = False
    latent: int = 0
    masks: int = 1
    half_channels: int = 0
    scale: int = SCALE
    alignment: Alignment = "learned"

    def __post_init__(self) -> None:
        if self.scale not in SCALES or (self.scale != SCALE and self.degradation != "real"):
            raise ModelError(
                f"there is no scale {self.scale} with degradation {self.degradation}; the papers' "
                f"networks enlarge {SCALE} times, those of the real degradation 2 or 4 times",
                hint="use a name that starts with teco-x4-, or teco-x2- and ends in -real",
            )
        for field, least in _LEAST.items():
            if getattr(self, field) < least:
                raise ModelError(f"{field} must be at least {least}, got {getattr(self, field)}")
        self._check_alignment()
        if self.tail == "egvsr" and self.channels % (SCALE * SCALE):
            raise ModelError(
                f"the egvsr tail shuffles {SCALE * SCALE} channels into one, so channels must be "
                f"a multiple of {SCALE * SCALE}, got {self.channels}"
            )
        if self.flow_channels == 0 and self.flow_norm == "raw":
            raise ModelError(
                "a variant without a flow net (f0) has no flow input to leave raw",
                hint="leave -raw out",
            )
        if self.back_projection and (self.flow_channels == 0 or self.degradation != "bd"):
            raise ModelError(
                "back-projection (bp) needs a flow net and the BD degradation, whose blur it knows",
                hint="leave -bp out",
            )
        if self.lucas_kanade and self.flow_channels == 0:
            raise ModelError(
                "a variant without a flow net (f0) has no flow to refine (lk)",
                hint="leave -lk out",
            )
        for field, kind in (
            ("tail", Tail), ("degradation", Degradation), ("flow_norm", FlowNorm),
            ("alignment", Alignment),
        ):  # fmt: skip
            if getattr(self, field) not in get_args(kind):
                raise ModelError(
                    f"{field} must be one of {', '.join(get_args(kind))}, "
                    f"got {getattr(self, field)!r}"
                )

    def _check_alignment(self) -> None:
        """Raise ModelError for fields of one generator beside those of the other."""
        own = {"latent": 0, "masks": 1, "half_channels": 0}
        one_way = {"real": "computed", "bi": "learned"}
        if self.alignment != one_way.get(self.degradation, self.alignment):
            raise ModelError(
                f"the alignment of degradation {self.degradation} is "
                f"{one_way[self.degradation]}, got {self.alignment}"
            )
        if not self.computed_alignment:
            odd = {f: getattr(self, f) for f, usual in own.items() if getattr(self, f) != usual}
            if odd:
                raise ModelError(
                    f"{_fields(odd)} belong to computed alignment, and here it is learned",
                    hint="a name that ends in -real or -bd has them: teco-x4-b2-c32-l14-real",
                )
            return
        learned = {
            "flow_channels": 0, "tail": "shuffle", "flow_norm": "pair",
            "back_projection": False, "lucas_kanade": False,
        }  # fmt: skip
        odd = {f: getattr(self, f) for f, only in learned.items() if getattr(self, f) != only}
        if odd:
            raise ModelError(
                f"computed alignment has one tail and no flow net, so {_fields(odd)} cannot be "
                "chosen",
                hint="Variant.aligned() leaves them at what they must be",
            )
        if self.masks not in (1, self.phases):
            raise ModelError(f"masks must be 1 or {self.phases}, got {self.masks}")

    @classmethod
    def aligned(
        cls,
        *,
        degradation: Degradation = "real",
        blocks: int = 2,
        channels: int = 32,
        latent: int = 14,
        masks: int = 1,
        half_channels: int = 0,
        scale: int = SCALE,
    ) -> Variant:
        """A variant of computed alignment."""
        return cls(
            blocks=blocks,
            channels=channels,
            flow_channels=0,
            tail="shuffle",
            degradation=degradation,
            alignment="computed",
            latent=latent,
            masks=masks,
            half_channels=half_channels,
            scale=scale,
        )

    @property
    def phases(self) -> int:
        """HR pixels of an LR pixel."""
        return self.scale * self.scale

    @property
    def name(self) -> str:
        """Canonical name; fields at their defaults (after channels) are left out."""
        parts = [f"teco-x{self.scale}-b{self.blocks}-c{self.channels}"]
        if self.computed_alignment:
            parts += [f"h{self.half_channels}"] if self.half_channels else []
            parts += [f"l{self.latent}"] if self.latent else []
            parts += [f"m{self.masks}"] if self.masks != 1 else []
            return "-".join((*parts, self.degradation))
        if self.flow_channels != 32:
            parts.append(f"f{self.flow_channels}")
        if self.tail != "transposed":
            parts.append(self.tail)
        if self.back_projection:
            parts.append("bp")
        if self.lucas_kanade:
            parts.append("lk")
        if self.flow_norm == "raw":
            parts.append("raw")
        if self.degradation == "bi":
            parts.append("bi")
        return "-".join(parts)

    @property
    def has_flow(self) -> bool:
        """Whether FNet estimates motion and the past is warped by it."""
        return self.flow_channels > 0

    @property
    def computed_alignment(self) -> bool:
        """Whether motion is computed, and the past warped by it, with no network for it."""
        return self.alignment == "computed"

    @property
    def centred(self) -> bool:
        """Whether an LR pixel is the middle of its HR pixels, as it is in ordinary clips; else,
        with BD, it lies on the first of them."""
        return self.degradation != "bd"

    @property
    def follows_motion(self) -> bool:
        """Whether the past is warped to where the frame shows it; else it lies in place."""
        return self.has_flow or self.computed_alignment

    @property
    def input_channels(self) -> int:
        """Channels that SRNet's first convolution reads: the frame and the past."""
        if self.computed_alignment:  # luma, its misfit, the phases of the past, features
            return 2 + self.phases + self.latent
        past = 3 * self.phases
        return 3 + past if self.has_flow else 3 + past + 3 + self.channels

    @property
    def has_residual(self) -> bool:
        """Whether the upsampled LR frame is added to SRNet's output (EGVSR leaves that out)."""
        return self.tail != "egvsr"

    @classmethod
    def parse(cls, name: str) -> Variant:
        """Inverse of :attr:`name`.

        Raises:
            ModelError: the text is not a variant name.
        """
        computed = _COMPUTED_NAME.fullmatch(name.strip())
        if computed is not None:
            numbers = computed.groupdict()
            degradation: Degradation = "bd" if numbers.pop("degradation") == "bd" else "real"
            return cls.aligned(
                degradation=degradation,
                **{"latent": 0, **{k: int(v) for k, v in numbers.items() if v}},
            )
        match = _NAME.fullmatch(name.strip())
        if match is None:
            raise ModelError(
                f"{name!r} is not a variant name",
                hint="the form is teco-x4-bBLOCKS-cCHANNELS[-fFLOW][-shuffle|-egvsr][-bp][-lk]"
                "[-raw][-bi], for example teco-x4-b3-c64, or with computed alignment, for ordinary "
                "clips (-real) or BD, teco-x4-bBLOCKS-cCHANNELS[-hHALF][-lLATENT][-mMASKS]-real",
            )
        tail = match["tail"]
        return cls(
            scale=int(match["scale"]),
            blocks=int(match["blocks"]),
            channels=int(match["channels"]),
            flow_channels=int(match["flow"] if match["flow"] is not None else 32),
            tail="shuffle" if tail == "shuffle" else "egvsr" if tail == "egvsr" else "transposed",
            flow_norm="raw" if match["raw"] else "pair",
            back_projection=match["bp"] is not None,
            lucas_kanade=match["lk"] is not None,
            degradation="bi" if match["bi"] else "bd",
        )

    def layers(self, h: int, w: int, *, nominal: bool = False) -> tuple[Layer, ...]:
        """Every tensor of one step on an (h, w) LR frame, in execution order.

        Args:
            h: LR height.
            w: LR width.
            nominal: count FNet's decoder at the sizes of its encoder, as the published tables do.
                What runs is smaller where h or w is no multiple of 8, because each halving floors
                and the decoder doubles what is left.

        Raises:
            ModelError: the frame is smaller than 8x8.
        """
        check_size(h, w)
        if self.computed_alignment:
            return _computed_layers(self, h, w)
        c, s = self.channels, self.scale
        out: list[Layer] = []

        def add(name: str, part: str, shape: tuple[int, int, int], *inputs: str) -> str:
            out.append(Layer(name, part, shape, inputs))
            return name

        def conv(name: str, part: str, x: str, cin: int, cout: int, size: tuple[int, int]) -> str:
            macs = 9 * cin * cout * size[0] * size[1]
            out.append(Layer(name, part, (cout, *size), (x,), macs, 9 * cin * cout + cout))
            return name

        # The state is alive from the start: the previous LR and HR pictures.
        add("lr", "warp", (3, h, w))
        add("lr_prev", "warp", (3, h, w))
        add("hr_prev", "warp", (3, s * h, s * w))

        if self.has_flow:
            self._flow_layers(h, w, nominal, add, conv)
            x = add("warped", "warp", (3, s * h, s * w), "hr_prev", "hr_flow")
            x = add("past", "warp", (3 * s * s, h, w), x)
            if self.back_projection:
                # One 3x3 kernel a phase each way: a colour from its 16 phases, and back.
                macs = 9 * 3 * s * s * h * w
                out.append(Layer("past_error", "srnet", (3, h, w), (x, "lr"), macs))
                reads = (x, "past_error", "lr_prev")
                shape = (3 * s * s, h, w)
                out.append(Layer("past_corrected", "srnet", shape, reads, macs, 9 * s * s))
                x = "past_corrected"
            past = [x]
        else:
            add("latent_prev", "warp", (c, h, w))
            past = [add("past", "warp", (3 * s * s, h, w), "hr_prev"), "lr_prev", "latent_prev"]
        x = add("srnet.in", "srnet", (self.input_channels, h, w), "lr", *past)
        x = conv("srnet.conv_in", "srnet", x, self.input_channels, c, (h, w))
        for i in range(self.blocks):
            y = conv(f"srnet.block{i}.0", "srnet", x, c, c, (h, w))
            y = conv(f"srnet.block{i}.2", "srnet", y, c, c, (h, w))
            x = add(f"srnet.block{i}", "srnet", (c, h, w), x, y)
        features = x
        if not self.has_flow:
            add("latent", "srnet", (c, h, w), x)
        if self.tail == "transposed":
            for i in (1, 2):
                # At its input resolution: every input pixel is multiplied by all nine taps.
                macs = 9 * c * c * (h * i) * (w * i)
                shape = (c, 2 * i * h, 2 * i * w)
                out.append(Layer(f"srnet.up{i}", "srnet", shape, (x,), macs, 9 * c * c + c))
                x = f"srnet.up{i}"
            x = conv("srnet.conv_out", "srnet", x, c, 3, (s * h, s * w))
        elif self.tail == "shuffle":
            x = conv("srnet.conv_shuffle", "srnet", x, c, 3 * s * s, (h, w))
            x = add("srnet.shuffle", "srnet", (3, s * h, s * w), x)
        else:
            x = add("srnet.shuffle", "srnet", (c // (s * s), s * h, s * w), x)
            x = conv("srnet.conv_out", "srnet", x, c // (s * s), 3, (s * h, s * w))
        mixed = [x]
        if self.has_residual:
            mixed.append(add("lr_up", "srnet", (3, s * h, s * w), "lr"))
        if self.back_projection:
            mixed += [conv("srnet.back.mask", "srnet", features, c, s * s, (h, w)), *past]
        add("hr", "srnet", (3, s * h, s * w), *mixed)
        return tuple(out)

    def _flow_layers(
        self, h: int, w: int, nominal: bool, add: Callable[..., str], conv: Callable[..., str]
    ) -> None:
        """FNet, and its flow at both sizes."""
        f, s = self.flow_channels, self.scale

        def double_conv(name: str, x: str, cin: int, cout: int, size: tuple[int, int]) -> str:
            mid = conv(f"{name}.0", "fnet", x, cin, cout, size)
            return conv(f"{name}.2", "fnet", mid, cout, cout, size)

        x, size, cin = add("fnet.in", "fnet", (6, h, w), "lr", "lr_prev"), (h, w), 6
        encoder_sizes: list[tuple[int, int]] = []
        for i, width in enumerate((f, 2 * f, 4 * f), start=1):
            x = double_conv(f"fnet.encoder{i}", x, cin, width, size)
            encoder_sizes.append(size)
            size, cin = (size[0] // 2, size[1] // 2), width
            x = add(f"fnet.pool{i}", "fnet", (width, *size), x)
        for i, width in enumerate((8 * f, 4 * f, 2 * f), start=1):
            x = double_conv(f"fnet.decoder{i}", x, cin, width, size)
            size, cin = (size[0] * 2, size[1] * 2), width
            if nominal:
                size = encoder_sizes[-i]
            x = add(f"fnet.up{i}", "fnet", (width, *size), x)
        x = conv("fnet.flow.0", "fnet", x, 2 * f, f, size)
        x = conv("fnet.flow.2", "fnet", x, f, 2, size)
        x = add("flow", "warp", (2, h, w), x)
        if self.lucas_kanade:
            # Its filters are fixed and count as the upsampling's do: not at all.
            add("lr_warped", "warp", (3, h, w), "lr_prev", x)
            add("flow_sums", "warp", (5, h, w), "lr", "lr_warped")
            x = add("flow_refined", "warp", (2, h, w), "flow_sums", x)
        add("hr_flow", "warp", (2, s * h, s * w), x)

    def cost(self, h: int, w: int) -> Cost:
        """Parameters, MACs and activation memory of one step on an (h, w) LR frame."""
        layers = self.layers(h, w)
        params = {part: sum(x.params for x in layers if x.part == part) for part in _PARTS}
        params["total"] = sum(params.values())
        executed = _macs_by_part(layers)
        macs = _macs_by_part(self.layers(h, w, nominal=True))
        last_read = {name: i for i, layer in enumerate(layers) for name in layer.inputs}
        # The output becomes the next state, and the state is held until it is replaced.
        end = len(layers)
        last_read |= dict.fromkeys(_HELD, end)
        alive: dict[str, int] = {}
        peak = 0
        for i, layer in enumerate(layers):
            alive[layer.name] = layer.elements
            peak = max(peak, sum(alive.values()))
            alive = {k: v for k, v in alive.items() if last_read[k] > i}
        planes = 1 if self.computed_alignment else 3
        state = planes * (h * w + self.scale * h * self.scale * w)
        if self.computed_alignment:
            state += self.latent * h * w
        elif not self.has_flow:
            state += self.channels * h * w
        return Cost(params, macs, executed, peak, state)


_PARTS = ("fnet", "srnet")

_LEAST = {
    "blocks": 1, "channels": 1, "flow_channels": 0, "latent": 0, "masks": 1, "half_channels": 0,
}  # fmt: skip

_HELD = (
    "hr", "lr", "lr_prev", "hr_prev", "latent", "latent_prev",
    "luma", "luma_prev", "hr_luma", "hr_luma_prev",
)  # fmt: skip
"""The frame, the output and the state, which stay alive to the end of a step."""


def _fields(values: dict[str, object]) -> str:
    return ", ".join(f"{name} {value!r}" for name, value in values.items())


def _computed_layers(v: Variant, h: int, w: int) -> tuple[Layer, ...]:
    """:meth:`Variant.layers` of computed alignment.

    Fixed filters count as none, as the upsampling's do elsewhere; the two learned linear filters,
    of the enlargement and of back-projection, count.
    """
    s, phases = v.scale, v.phases
    out: list[Layer] = []

    def add(
        name: str, part: str, channels: int, *inputs: str, macs: int = 0, params: int = 0,
        size: tuple[int, int] = (h, w),
    ) -> str:  # fmt: skip
        out.append(Layer(name, part, (channels, *size), inputs, macs, params))
        return name

    def conv(
        name: str, x: str, cin: int, cout: int, taps: int = 9, size: tuple[int, int] = (h, w)
    ) -> str:
        weights = taps * cin * cout
        macs = weights * size[0] * size[1]
        return add(name, "srnet", cout, x, macs=macs, params=weights + cout, size=size)

    hr, rough = (s * h, s * w), ((h + 1) // 2, (w + 1) // 2)
    add("lr", "warp", 3)
    add("luma_prev", "warp", 1)
    add("hr_luma_prev", "warp", 1, size=hr)
    latent = [add("latent_prev", "warp", v.latent)] if v.latent else []
    add("luma", "warp", 1, "lr")
    add("flow", "warp", 2, "luma", "luma_prev", "hr_luma_prev")
    add("past", "warp", phases, "hr_luma_prev", "flow")
    base = 49 * phases
    add("base", "srnet", phases, "luma", macs=base * h * w, params=base)
    add("past_error", "srnet", 1, "past", "luma")
    spread = 9 * phases
    corrected = ("past", "past_error")
    add("past_corrected", "srnet", phases, *corrected, macs=spread * h * w, params=spread)
    reads = ("luma", "past_error", "past_corrected", "base", *latent)
    x = add("srnet.in", "srnet", v.input_channels, *reads)
    x = head = conv("srnet.head", x, v.input_channels, v.channels)
    width, size = v.channels, (h, w)
    if v.half_channels:
        width, size = v.half_channels, rough
        x = conv("srnet.down", x, v.channels, width, size=size)
    for i in range(v.blocks):
        y = conv(f"srnet.block{i}.0", x, width, width, size=size)
        y = conv(f"srnet.block{i}.2", y, width, width, size=size)
        x = add(f"srnet.block{i}", "srnet", width, x, y, size=size)
    if v.half_channels:
        x = conv("srnet.up", x, width, 4 * v.channels, taps=1, size=size)
        x = add("srnet.joined", "srnet", v.channels, x, head)
    x = conv("srnet.tail", x, v.channels, phases + v.masks + v.latent)
    if v.latent:
        add("latent", "srnet", v.latent, x)
    add("hr_luma", "srnet", 1, x, "base", "past_corrected", "past_error", size=hr)
    add("hr", "srnet", 3, "hr_luma", "lr", "luma", size=hr)
    return tuple(out)


def _macs_by_part(layers: tuple[Layer, ...]) -> dict[str, int]:
    macs = {part: sum(x.macs for x in layers if x.part == part) for part in _PARTS}
    return macs | {"total": sum(macs.values())}


def check_size(h: int, w: int) -> None:
    """Raise :class:`ModelError` for a frame that FNet cannot halve three times."""
    if h < MIN_SIZE or w < MIN_SIZE:
        raise ModelError(
            f"a frame of {w}x{h} pixels (width x height) is too small; "
            f"the network needs at least {MIN_SIZE}x{MIN_SIZE}",
            hint="use a larger clip",
        )
