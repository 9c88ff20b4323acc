"""The generator of the published networks, restated plainly from its description.

Shares no code with teco_models: functions over a state dict in the published key layout, with
the warp, the space-to-depth and the cubic upsampling written out by hand.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

State = dict[str, Tensor]

CUBIC = [
    [0, 1, 0, 0],
    [-0.10546875, 0.87890625, 0.26171875, -0.03515625],
    [-0.09375, 0.59375, 0.59375, -0.09375],
    [-0.03515625, 0.26171875, 0.87890625, -0.10546875],
]


def published_state(blocks: int, *, bd: bool, seed: int = 0) -> State:
    """Random weights under the published names and shapes: 78 keys for 10 BD blocks, 76 for BI."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, cin: int, cout: int, *, transposed: bool = False) -> None:
        shapes[f"{name}.weight"] = (cin, cout, 3, 3) if transposed else (cout, cin, 3, 3)
        shapes[f"{name}.bias"] = (cout,)

    widths = [("encoder1", 6, 32), ("encoder2", 32, 64), ("encoder3", 64, 128)]
    widths += [("decoder1", 128, 256), ("decoder2", 256, 128), ("decoder3", 128, 64)]
    for part, cin, cout in widths:
        conv(f"fnet.{part}.0", cin, cout)
        conv(f"fnet.{part}.2", cout, cout)
    conv("fnet.flow.0", 64, 32)
    conv("fnet.flow.2", 32, 2)
    conv("srnet.conv_in.0", 51, 64)
    for i in range(blocks):
        conv(f"srnet.resblocks.{i}.conv.0", 64, 64)
        conv(f"srnet.resblocks.{i}.conv.2", 64, 64)
    conv("srnet.conv_up.0", 64, 64, transposed=True)
    conv("srnet.conv_up.2", 64, 64, transposed=True)
    conv("srnet.conv_out", 64, 3)
    generator = torch.Generator().manual_seed(seed)
    state: State = {}
    for name, shape in shapes.items():
        if len(shape) == 1:
            state[name] = 0.05 * torch.randn(shape, generator=generator)
            continue
        fan = shape[1] * 9
        # Gains near one keep ten recurrent steps from growing or dying.
        gain = {"fnet.flow.2": 0.1, "srnet.conv_out": 0.2}.get(name.removesuffix(".weight"), 1.2)
        if ".conv.2." in name:
            gain = 0.3
        state[name] = gain / fan**0.5 * torch.randn(shape, generator=generator)
    if bd:
        state["upsample_func.kernels"] = torch.tensor(CUBIC)
        state["srnet.upsample_func.kernels"] = torch.tensor(CUBIC)
    return state


def _conv(state: State, name: str, x: Tensor) -> Tensor:
    return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)


def fnet(state: State, current: Tensor, previous: Tensor) -> Tensor:
    x = torch.cat([current, previous], 1)
    for part in ("encoder1", "encoder2", "encoder3", "decoder1", "decoder2", "decoder3"):
        x = F.leaky_relu(_conv(state, f"fnet.{part}.0", x), 0.2)
        x = F.leaky_relu(_conv(state, f"fnet.{part}.2", x), 0.2)
        if part.startswith("enc"):
            x = F.max_pool2d(x, 2)
        else:
            size = (2 * x.shape[2], 2 * x.shape[3])
            x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    x = F.leaky_relu(_conv(state, "fnet.flow.0", x), 0.2)
    return 24 * torch.tanh(_conv(state, "fnet.flow.2", x))


def upsample(x: Tensor, *, bd: bool) -> Tensor:
    """x4: phase-aligned cubic with replicated borders, or half-pixel bilinear."""
    n, c, h, w = x.shape
    out = torch.zeros(n, c, 4 * h, 4 * w)
    if bd:
        rows = [[min(max(i + k - 1, 0), h - 1) for k in range(4)] for i in range(h)]
        cols = [[min(max(j + k - 1, 0), w - 1) for k in range(4)] for j in range(w)]
        tall = torch.zeros(n, c, 4 * h, w)
        for p in range(4):
            for k in range(4):
                tall[:, :, p::4] += CUBIC[p][k] * x[:, :, [r[k] for r in rows]]
        for p in range(4):
            for k in range(4):
                out[:, :, :, p::4] += CUBIC[p][k] * tall[:, :, :, [r[k] for r in cols]]
        return out
    for axis, size in ((2, h), (3, w)):
        position = (torch.arange(4 * size) + 0.5) / 4 - 0.5
        low = position.floor()
        share = (position - low).view([-1 if a == axis else 1 for a in range(4)])
        a = low.clamp(0, size - 1).long()
        b = (low + 1).clamp(0, size - 1).long()
        x = x.index_select(axis, a) * (1 - share) + x.index_select(axis, b) * share
    return x


def warp(x: Tensor, flow: Tensor) -> Tensor:
    """Bilinear at linspace(-1, 1) + flow / ((size - 1) / 2), borders continued, by hand."""
    n, c, h, w = x.shape
    gx = torch.linspace(-1, 1, w).view(1, 1, w) + flow[:, 0] / ((w - 1) / 2)
    gy = torch.linspace(-1, 1, h).view(1, h, 1) + flow[:, 1] / ((h - 1) / 2)
    px = ((gx + 1) / 2 * (w - 1)).clamp(0, w - 1)
    py = ((gy + 1) / 2 * (h - 1)).clamp(0, h - 1)
    x0, y0 = px.floor(), py.floor()
    fx, fy = (px - x0)[:, None], (py - y0)[:, None]
    x0, y0 = x0.long(), y0.long()
    x1, y1 = (x0 + 1).clamp(max=w - 1), (y0 + 1).clamp(max=h - 1)
    flat = x.reshape(n, c, h * w)

    def at(yy: Tensor, xx: Tensor) -> Tensor:
        index = (yy * w + xx).reshape(n, 1, h * w).expand(n, c, h * w)
        return flat.gather(2, index).reshape(n, c, h, w)

    top = at(y0, x0) * (1 - fx) + at(y0, x1) * fx
    bottom = at(y1, x0) * (1 - fx) + at(y1, x1) * fx
    return top * (1 - fy) + bottom * fy


def space_to_depth(x: Tensor) -> Tensor:
    parts = [x[:, :, dy::4, dx::4] for dy in range(4) for dx in range(4)]
    return torch.cat(parts, 1)


def step(state: State, lr: Tensor, lr_prev: Tensor, hr_prev: Tensor, *, bd: bool) -> Tensor:
    h, w = lr.shape[2:]
    flow = fnet(state, lr, lr_prev)
    flow = F.pad(flow, (0, w - flow.shape[3], 0, h - flow.shape[2]), mode="reflect")
    warped = space_to_depth(warp(hr_prev, 4 * upsample(flow, bd=bd)))
    x = F.relu(_conv(state, "srnet.conv_in.0", torch.cat([lr, warped], 1)))
    i = 0
    while f"srnet.resblocks.{i}.conv.0.weight" in state:
        y = F.relu(_conv(state, f"srnet.resblocks.{i}.conv.0", x))
        x = x + _conv(state, f"srnet.resblocks.{i}.conv.2", y)
        i += 1
    for name in ("srnet.conv_up.0", "srnet.conv_up.2"):
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        x = F.relu(F.conv_transpose2d(x, weight, bias, stride=2, padding=1, output_padding=1))
    return _conv(state, "srnet.conv_out", x) + upsample(lr, bd=bd)
