"""Every tensor of the deployed step, by hand: what :mod:`teco_models.deploy.step` computes, as a
list.

No torch and no export is needed for it, so that memory can be told before anything is built. A test
compares it with the graphs that the export really writes.

What counts: one tensor for each operation that needs memory of its own. Activations and other
elementwise operations write over an operand that nobody reads afterwards, changes of shape cost
nothing, and zero padding belongs to the convolution that it is for; replicated borders are copies.

Shape legend: h x w the LR size, P = 16 phases, C channels, F flow channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from teco_models.variant import SCALE, Variant, check_size

Precision = Literal["fp32", "fp16", "int8"]

P = SCALE * SCALE
FLOAT = 4

WIDTHS: Mapping[Precision, int] = {"fp32": 4, "fp16": 2, "int8": 1}
"""Bytes of what convolutions read and write. int8 is the best case: all that lies between two
convolutions is stored in 8 bits. A layer that measured sensitivity keeps in float takes more."""


@dataclass(frozen=True)
class Op:
    """One operation and the tensor it writes.

    Attributes:
        name: of the tensor.
        elements: of the tensor.
        width: bytes of an element.
        inputs: names of the tensors it reads.
        elementwise: it may write over an input of the same size that nobody reads afterwards.
        weights: elements of trained weights it reads.
        constants: elements of fixed float32 kernels and tables it reads.
    """

    name: str
    elements: int
    width: int
    inputs: tuple[str, ...]
    elementwise: bool = False
    weights: int = 0
    constants: int = 0

    @property
    def size(self) -> int:
        """Bytes of the tensor."""
        return self.elements * self.width


PORTS = ("lr", "lr_prev", "hr_prev", "phases_prev", "latent_prev", "hr", "phases", "latent")
"""Inputs and outputs. They are held over the step: the state is double-buffered by them."""


class _List:
    """Collects operations; names are made unique by their number."""

    def __init__(self) -> None:
        self.ops: list[Op] = []

    def add(
        self, name: str, elements: int, width: int, *inputs: str, elementwise: bool = False,
        weights: int = 0, constants: int = 0,
    ) -> str:  # fmt: skip
        if name not in PORTS:
            name = f"{len(self.ops)}.{name}"
        self.ops.append(Op(name, elements, width, inputs, elementwise, weights, constants))
        return name


def deployed(
    variant: Variant,
    h: int,
    w: int,
    precision: Precision = "fp32",
    form: Mapping[str, bool] | None = None,
    *,
    dynamic: bool = False,
) -> tuple[Op, ...]:
    """The operations of one deployed step in the order in which they run.

    Args:
        variant: which network.
        h, w: LR size.
        precision: of the convolutions.
        form: exact rewrites by name (``teco_models.deploy.step.Rewrites``); what is not named is
        on.
        dynamic: of a file that takes any size, which computes its sampling grid in each step where
            a static one stores it.

    Raises:
        ModelError: the frame is smaller than 8x8.
    """
    check_size(h, w)
    used = form or {}
    return _TensorStep(variant, h, w, WIDTHS[precision], used, dynamic).run()


class _TensorStep:
    def __init__(
        self, variant: Variant, h: int, w: int, inner: int, form: Mapping[str, bool], dynamic: bool
    ) -> None:
        self.v, self.h, self.w, self.inner, self.dynamic = variant, h, w, inner, dynamic
        self.form = form
        self.pixels = h * w
        self.list = _List()

    def on(self, name: str) -> bool:
        return self.form.get(name, True)

    def new(self, name: str, channels: int, *inputs: str, scale: int = 1, width: int = 0) -> str:
        """A tensor of so many channels at ``scale`` times the LR size, float32 if not said."""
        return self.list.add(name, channels * self.pixels * scale**2, width or FLOAT, *inputs)

    def same(self, name: str, channels: int, *inputs: str, scale: int = 1, width: int = 0) -> str:
        """The same for an elementwise operation."""
        n = channels * self.pixels * scale**2
        return self.list.add(name, n, width or FLOAT, *inputs, elementwise=True)

    def cast(self, x: str, channels: int, width: int) -> str:
        """To what convolutions take, or back; nothing in float32."""
        return x if self.inner == FLOAT else self.new("cast", channels, x, width=width)

    def conv(
        self, cin: int, cout: int, *inputs: str, taps: int = 9, bias: bool = True, scale: int = 1
    ) -> str:
        n = cout * self.pixels * scale**2
        weights = taps * cin * cout + (cout if bias else 0)
        return self.list.add("conv", n, self.inner, *inputs, weights=weights)

    def edged(self, x: str, channels: int, before: int, after: int) -> str:
        """Borders continued."""
        n = channels * (self.h + before + after) * (self.w + before + after)
        return self.list.add("edged", n, FLOAT, x)

    def fixed(self, name: str, elements: int, constants: int, *inputs: str) -> str:
        return self.list.add(name, elements, FLOAT, *inputs, constants=constants)

    # --- parts ---------------------------------------------------------------------------

    def run(self) -> tuple[Op, ...]:
        if self.v.has_flow:
            self.with_flow()
        else:
            self.without_flow()
        return tuple(self.list.ops)

    def with_flow(self) -> None:
        v, c = self.v, self.v.channels
        flow = self.flow()
        if v.lucas_kanade:
            flow = self.same("flow", 2, flow, self.correction(flow))
        past = self.warp(flow)
        trusted = ""  # back-projection's alone
        if v.back_projection:
            x = self.edged(past, 3 * P, 1, 1)
            error = self.fixed("error", 3 * self.pixels, 9 * 9 * P, x)
            error = self.same("error", 3, error, "lr")
            x = self.edged(error, 3, 1, 1)
            trusted = self.same("trust", 1, x)
            x = self.list.add("spread", 3 * P * self.pixels, FLOAT, x, weights=9 * 9 * P)
            x = self.same("spread", 3 * P, x)
            past = self.same("past", 3 * P, past, x)
        if self.on("split_input"):
            a = self.conv(3 * P, c, self.cast(past, 3 * P, self.inner), bias=False)
            b = self.conv(3, c, self.cast("lr", 3, self.inner))
            x = self.same("in", c, a, b, width=self.inner)
        else:
            x = self.new("in", 3 + 3 * P, "lr", past)
            x = self.conv(3 + 3 * P, c, self.cast(x, 3 + 3 * P, self.inner))
        features = self.blocks(x)
        if not v.back_projection:
            x = self.tail(features)
            if v.has_residual:
                self.same("hr", 3, x, self.residual(), scale=SCALE)
            else:
                self.rename(x)
            return
        mask = self.cast(self.conv(c, P, features), P, FLOAT)
        mask = self.same("mask", P, mask, trusted)
        x = self.fixed("residual", 3 * P * self.pixels, 9 * P * P, self.edged("lr", 3, 1, 2))
        rest = self.new("rest", 3 * P, past, x)
        rest = self.same("rest", 3 * P, rest, mask)
        rest = self.same("rest", 3 * P, x, rest)
        tail = self.tail(features)
        share = self.to_pixels(self.same("share", P, mask), 1, P)
        tail = self.same("mixed", 3, tail, share, scale=SCALE)
        self.same("hr", 3, tail, self.to_pixels(rest, 3, P), scale=SCALE)

    def without_flow(self) -> None:
        c = self.v.channels
        if self.on("split_input"):
            frames = self.new("frames", 6, "lr", "lr_prev")
            a = self.conv(6, c, self.cast(frames, 6, self.inner))
            x = self.new("past", 3 * P + c, "phases_prev", "latent_prev")
            x = self.conv(3 * P + c, c, self.cast(x, 3 * P + c, self.inner), bias=False)
            x = self.same("in", c, x, a, width=self.inner)
        else:
            n = self.v.input_channels
            x = self.new("in", n, "lr", "phases_prev", "lr_prev", "latent_prev")
            x = self.conv(n, c, self.cast(x, n, self.inner))
        x = self.blocks(x)
        if self.inner == FLOAT:
            self.new("latent", c, x)
        else:
            self.new("latent", c, self.new("relu", c, x, width=self.inner))
        if self.v.tail == "shuffle" and self.on("phase_residual"):
            y = self.cast(self.conv(c, 3 * P, x), 3 * P, FLOAT)
            edged = self.edged("lr", 3, 1, 2)
            r = self.fixed("residual", 3 * P * self.pixels, 9 * P * P, edged)
            self.same("phases", 3 * P, y, r)
            self.rename(self.to_pixels("phases", 3, P))
            return
        x = self.tail(x)
        if self.v.has_residual:
            self.same("hr", 3, x, self.residual(), scale=SCALE)
        else:
            self.rename(x)
        self.new("phases", 3 * P, "hr")

    def rename(self, x: str) -> None:
        """The operation that made x makes the picture."""
        ops = self.list.ops
        at = next(i for i, op in enumerate(ops) if op.name == x)
        op = ops[at]
        ops[at] = Op("hr", op.elements, op.width, op.inputs, op.elementwise, op.weights)

    def blocks(self, x: str) -> str:
        c = self.v.channels
        for _ in range(self.v.blocks):
            y = self.conv(c, c, self.conv(c, c, x))
            x = self.same("block", c, x, y, width=self.inner)
        return x

    def flow(self) -> str:
        """FNet's flow, (2, h, w) float32."""
        f, inner = self.v.flow_channels, self.inner
        h, w = self.h, self.w

        def at(name: str, channels: int, *inputs: str, weights: int = 0, width: int = inner) -> str:
            return self.list.add(name, channels * h * w, width, *inputs, weights=weights)

        def double(x: str, cin: int, cout: int) -> str:
            x = at("fnet", cout, x, weights=9 * cin * cout + cout)
            return at("fnet", cout, x, weights=9 * cout * cout + cout)

        x = at("pair", 6, "lr", "lr_prev", width=FLOAT)
        if self.v.flow_norm == "pair":
            x = self.list.add("centred", 6 * h * w, FLOAT, x, elementwise=True)
            at("square", 6, x, width=FLOAT)
            x = self.list.add("normed", 6 * h * w, FLOAT, x, elementwise=True)
        x, cin = self.cast(x, 6, inner), 6
        for width in (f, 2 * f, 4 * f):
            x, cin = double(x, cin, width), width
            h, w = h // 2, w // 2
            x = at("pool", width, x)
        for width in (8 * f, 4 * f, 2 * f):
            x, cin = double(x, cin, width), width
            h, w = h * 2, w * 2
            x = at("up", width, x)
        x = at("fnet", f, x, weights=9 * cin * f + f)
        x = at("fnet", 2, x, weights=9 * f * 2 + 2)
        if inner != FLOAT:
            x = at("flow", 2, x, width=FLOAT)
        if h != self.h or self.dynamic:
            x, h = self.list.add("rows", 2 * self.h * w, FLOAT, x), self.h
        if w != self.w or self.dynamic:
            x = self.list.add("columns", 2 * self.h * self.w, FLOAT, x)
        return x

    def warped(self, frame: str, flow: str) -> str:
        """An LR frame where the flow points."""
        gx = self.same("x", 1, self.new("x", 1, flow))
        gy = self.same("y", 1, self.new("y", 1, flow))
        return self.new("warped", 3, frame, self.new("grid", 2, gx, gy))

    def correction(self, flow: str) -> str:
        """Lucas and Kanade's step."""
        n, h, w = self.pixels, self.h, self.w
        warped = self.warped("lr_prev", flow)
        x = self.edged(self.new("mean", 3, "lr", warped), 3, 2, 2)
        gx = self.fixed("gx", 3 * n, 5, self.list.add("slice", 3 * h * (w + 4), FLOAT, x))
        gy = self.fixed("gy", 3 * n, 5, self.list.add("slice", 3 * (h + 4) * w, FLOAT, x))
        it = self.same("it", 3, warped, "lr")
        pairs = ((gx, gx), (gx, gy), (gy, gy), (gx, it), (gy, it))
        sums = [self.new("sum", 1, self.same("product", 3, *pair)) for pair in pairs]
        x = self.edged(self.new("sums", 5, *sums), 5, 6, 6)
        x = self.fixed("window", 5 * h * (w + 12), 13, x)
        x = self.fixed("window", 5 * n, 13, x)
        xx, xy, yy, xt, yt = (self.new("chunk", 1, x) for _ in range(5))
        determinant = self.same("det", 1, self.new("det", 1, xx, yy), self.new("det", 1, xy))
        a = self.same("dx", 1, self.new("dx", 1, xy, yt), self.same("dx", 1, yy, xt))
        b = self.same("dy", 1, self.same("dy", 1, xy, xt), self.same("dy", 1, xx, yt))
        return self.same("step", 2, self.new("step", 2, a, b), determinant)

    def warp(self, flow: str) -> str:
        """The past in phases, (48, h, w) float32."""
        n = self.pixels
        if not self.on("phase_warp"):
            x = self.new("flow", 2, self.edged(flow, 2, 2, 2), scale=SCALE)
            gx = self.same("x", 1, self.new("x", 1, x, scale=SCALE), scale=SCALE)
            gy = self.same("y", 1, self.new("y", 1, x, scale=SCALE), scale=SCALE)
            grid = self.new("grid", 2, gx, gy, scale=SCALE)
            return self.new("past", 3 * P, self.new("warped", 3, "hr_prev", grid, scale=SCALE))
        x = self.edged(self.same("flow", 2, flow), 2, 1, 2)
        x = self.fixed("flow", 2 * P * n, 2 * P * P, x)
        halves = [self.new("flow", P, x) for _ in range(2)]
        grid = self.new("grid", 2 * P, *halves)
        if self.dynamic:
            axes = [self.new("axis", P) for _ in range(2)]
            base = self.same("base", 2 * P, self.new("base", 2 * P, *axes))
        else:
            base = self.fixed("base", 2 * P * n, 2 * P * n)
        grid = self.same("grid", 2 * P, grid, base)
        return self.new("past", 3 * P, "hr_prev", grid)

    def interleave(self, phases: Sequence[str], channels: int, scale: int, width: int) -> str:
        """p * p tensors at ``scale`` -> one at p times that."""
        p = round(len(phases) ** 0.5)
        columns = [
            self.new("column", p * channels, *phases[i::p], scale=scale, width=width)
            for i in range(p)
        ]
        return self.new("pixels", p * p * channels, *columns, scale=scale, width=width)

    def to_pixels(
        self, x: str, channels: int, phases: int, *, scale: int = 1, width: int = FLOAT
    ) -> str:
        """(channels * phases) at ``scale`` -> channels at sqrt(phases) times that."""
        if not self.on("stack_pixels"):
            return self.new("pixels", channels * phases, x, scale=scale, width=width)
        parts = [self.new("phase", channels, x, scale=scale, width=width) for _ in range(phases)]
        return self.interleave(parts, channels, scale, width)

    def residual(self) -> str:
        """The upsampled frame."""
        if not self.on("phase_residual"):
            return self.new("residual", 3, self.edged("lr", 3, 2, 2), scale=SCALE)
        x = self.fixed("residual", 3 * P * self.pixels, 9 * P * P, self.edged("lr", 3, 1, 2))
        if self.on("stack_pixels"):
            return self.to_pixels(x, 3, P)
        return self.to_pixels(self.new("ordered", 3 * P, x), 3, P)

    def tail(self, x: str) -> str:
        """(C, h, w) -> the picture without the residual, float32."""
        c, inner = self.v.channels, self.inner
        if self.v.tail == "shuffle":
            x = self.new("shuffled", 3 * P, self.conv(c, 3 * P, x), width=inner)
            return self.cast(x, 3 * P, FLOAT)
        if self.v.tail == "egvsr":
            x = self.new("shuffled", c, x, width=inner)
            return self.cast(self.conv(c // P, 3, x, scale=SCALE), 3 * P, FLOAT)
        taps = (1, 2, 2, 4)
        if self.on("phase_up"):
            ups = [self.conv(c, c, x, taps=t) for t in taps]
            x = self.interleave(ups, c, 1, inner)
        else:
            x = self.conv(c, c, x, scale=2)
        if not self.on("phase_tail"):
            x = self.conv(c, 3, self.conv(c, c, x, scale=4), scale=4)
            return self.cast(x, 3 * P, FLOAT)
        total = ""
        for n, t in enumerate(taps):
            y = self.conv(c, c, x, taps=t, scale=2)
            y = self.conv(c, 12, y, taps=4, bias=n == 0, scale=2)
            total = self.same("total", 12, total, y, scale=2, width=inner) if total else y
        if not self.on("stack_pixels"):
            total = self.new("ordered", 12, total, scale=2, width=inner)
        return self.cast(self.to_pixels(total, 3, 4, scale=2, width=inner), 3 * P, FLOAT)


def peak(ops: Sequence[Op]) -> tuple[int, str]:
    """Most bytes alive at once, without the ports, and the tensor at whose making that is.

    Operations run in order; a tensor lives from the operation that writes it to the last one that
    reads it.
    """
    last = {name: i for i, op in enumerate(ops) for name in op.inputs}
    alive: dict[str, int] = {}
    most, where = 0, ""
    for i, op in enumerate(ops):
        size = 0 if op.name in PORTS else op.size
        dying = [n for n in dict.fromkeys(op.inputs) if n in alive and last[n] == i]
        if op.elementwise:
            # It writes over an operand, which then need not live beside it.
            over = next((n for n in dying if alive[n] == op.size), None)
            if over is not None:
                del alive[over]
                dying.remove(over)
        if size:
            alive[op.name] = size
        now = sum(alive.values())
        if now > most:
            most, where = now, op.name
        for name in dying:
            del alive[name]
        if op.name in alive and op.name not in last:
            del alive[op.name]
    return most, where.split(".")[-1]
