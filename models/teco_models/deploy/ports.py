"""What a deployed step takes and gives at its borders: float32, float16, 8-bit pictures or planes.

The wrappers here stand around a deploy form (:mod:`teco_models.deploy.step`) and are traced with
it, so that scaling, rounding and clipping are part of the graph:

- ``fp32``: no wrapper. Frames and pictures are (1, 3, h, w) float32 in [0, 1].
- ``fp16``: the same shapes and values; frame, picture and every state are float16, which halves
  what crosses a bus. Inside, everything is as without.
- ``uint8``: the frame comes and the picture goes as decoders and screens have it, (1, h, w, 3)
  uint8 RGB, 0 to 255. The previous frame is kept as the 8-bit frame it was. What the network made
  itself (the previous picture, phases, features) stays float32: a state rounded to 8 bits at every
  step would carry its rounding on.

8-bit levels are divided by 255 on the way in, as in training. On the way out they are the float32
product with 255, rounded to nearest (ties to even), then clipped; so every host and every
runtime that computes in float32 gets the same levels. A cast has no 8-bit form for what is no
number, and a black pixel would hide it: such a file also gives ``check``, the sum of the float
picture, (1,) float32, which is finite exactly where all of the picture is (a picture that
overflows float32 when it is summed is none either).

``nv12`` and ``i420`` take and give planes, see :mod:`teco_models.deploy.planes`.

Casts stand right at the ports and 8-bit tensors nowhere else: TensorRT knows uint8 only there, and
only between a port and a cast to or from float.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from teco_models.deploy.aligned import AlignedStep
from teco_models.deploy.planes import I420Ports, Nv12Ports
from teco_models.deploy.step import DeployStep

Io = Literal["fp32", "fp16", "uint8", "nv12", "i420"]
"""Type of frames and pictures at the ports; see the module's description."""

LEVELS = 255
"""The largest 8-bit level, which is 1.0."""


def with_ports(step: nn.Module, io: Io) -> nn.Module:
    """A deploy form with other ports; the arguments stay in order.

    Args:
        step: from :func:`teco_models.deploy.step.deploy_step`, which is used as it is.
        io: kind of the ports; "fp32" gives ``step`` itself.

    Returns:
        A module whose results are, for "fp16", those of ``step`` in float16; for "uint8" the 8-bit
        picture, or its planes, then every float32 result that becomes state, then ``check``.
    """
    if io == "fp32":
        return step
    if io in ("nv12", "i420"):
        planes = Nv12Ports if io == "nv12" else I420Ports
        return planes(
            step,
            carries_picture=isinstance(step, DeployStep),
            carries_frame=not isinstance(step, AlignedStep),
        ).eval()
    kind = _FlowPorts if isinstance(step, DeployStep) else _FreePorts
    if isinstance(step, AlignedStep):
        kind = _AlignedPorts
    return kind(step, io).eval()


class _Ports(nn.Module):
    """What both forms share.

    Args:
        step: the deploy form.
        io: "fp16" or "uint8".
    """

    def __init__(self, step: nn.Module, io: Io) -> None:
        super().__init__()
        self.step = step
        self.pictures = io == "uint8"

    def frame(self, x: Tensor) -> Tensor:
        """The port's frame -> (1, 3, h, w) float32 in [0, 1]."""
        x = x.to(torch.float32)
        # The cast comes first because TensorRT moves no 8-bit tensors. Divided, not multiplied by
        # 1/255: the training data and the references divide.
        return x.permute(0, 3, 1, 2) / LEVELS if self.pictures else x

    def results(self, picture: Tensor, *carried: Tensor) -> tuple[Tensor, ...]:
        """The graph's outputs; ``carried`` are the float32 outputs that are state."""
        if not self.pictures:
            return tuple(x.to(torch.float16) for x in (picture, *carried))
        levels = torch.round(picture * LEVELS).clamp(0, LEVELS).permute(0, 2, 3, 1)
        return levels.to(torch.uint8), *carried, picture.sum(dim=(1, 2, 3))


class _FlowPorts(_Ports):
    """Around :class:`teco_models.deploy.step.DeployStep`, whose picture is its state."""

    def forward(self, frame: Tensor, frame_prev: Tensor, hr_prev: Tensor) -> tuple[Tensor, ...]:
        previous = hr_prev.to(torch.float32)
        picture = self.step(self.frame(frame), self.frame(frame_prev), previous)
        # In float16 the picture is the state; 8-bit pictures come beside it.
        return self.results(picture, *((picture,) if self.pictures else ()))


class _FreePorts(_Ports):
    """Around :class:`teco_models.deploy.step.FreeStep`."""

    def forward(
        self, frame: Tensor, frame_prev: Tensor, phases_prev: Tensor, latent_prev: Tensor
    ) -> tuple[Tensor, ...]:
        past = (x.to(torch.float32) for x in (phases_prev, latent_prev))
        return self.results(*self.step(self.frame(frame), self.frame(frame_prev), *past))


class _AlignedPorts(_Ports):
    """Around :class:`teco_models.deploy.aligned.AlignedStep`, all of whose state is its own."""

    def forward(
        self, frame: Tensor, luma: Tensor, hr_luma: Tensor, latent: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        past = (x.to(torch.float32) for x in (luma, hr_luma, latent) if x is not None)
        return self.results(*self.step(self.frame(frame), *past))
