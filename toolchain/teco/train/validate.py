"""What a training run is judged by, on clips it does not train on.

Besides PSNR: the *temporal gain* (PSNR with the recurrence minus PSNR with the state zeroed before
every frame), the mean flow, and the flow error on moved stills relative to predicting zero. If the
temporal gain is zero, the network works frame by frame and nothing downstream can be good.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from teco.errors import TecoError
from teco.train.data import SampleOptions, SequenceDataset, degrade_crop, shot_of
from teco_calibration.clips import open_source
from teco_calibration.degrade import bicubic_bd, crop_to_multiple, degrade_bd, shrink_by_area
from teco_calibration.quality import psnr_y
from teco_models.generator import Generator

BORDER = 8
"""HR pixels left out at each side: the network has no context there, bicubic needs none."""

SKIPPED = 2
"""First frames left out of the averages; they are cold starts by nature."""


@dataclass(frozen=True)
class Validation:
    """One validation's numbers: PSNR-Y in dB, flow in LR pixels, ``still_error`` relative."""

    psnr: float
    psnr_bicubic: float
    temporal_gain: float
    mean_flow: float
    still_error: float

    @property
    def gain(self) -> float:
        """dB over phase-aligned bicubic."""
        return self.psnr - self.psnr_bicubic

    def as_dict(self) -> dict[str, float]:
        return {**asdict(self), "gain": self.gain}


class Validator:
    """Validates generators on one clip, degraded by BD once.

    Args:
        frames: (N, H, W, 3) uint8, N >= 4; cropped to multiples of 4.
        seed: of the moved stills.
    """

    def __init__(self, frames: NDArray[np.uint8], seed: int = 1234) -> None:
        self.truth = [crop_to_multiple(f, 4) for f in frames]
        self.lr = [degrade_bd(f) for f in self.truth]
        self.bicubic = self._mean_psnr([bicubic_bd(lr) for lr in self.lr])
        options = SampleOptions(frames=2, batch=64, still_share=1.0, seed=seed)
        sample = SequenceDataset([shot_of("validation", frames)], options, 1)[0]
        b, t = sample.hr.shape[:2]
        pairs = degrade_crop(sample.hr.flatten(0, 1).float() / 255)
        self.stills = pairs.view(b, t, *pairs.shape[1:])  # (64, 2, 3, k, k)
        self.still_flow = sample.flow[:, 0]  # (64, 2, k, k)

    def _mean_psnr(self, pictures: list[NDArray[np.uint8]]) -> float:
        inner = slice(BORDER, -BORDER)
        values = [
            psnr_y(np.ascontiguousarray(t[inner, inner]), np.ascontiguousarray(p[inner, inner]))
            for t, p in list(zip(self.truth, pictures, strict=True))[SKIPPED:]
        ]
        return float(np.mean(values))

    @torch.no_grad()
    def __call__(self, generator: Generator) -> Validation:
        """Run the clip with and without the recurrence, float32."""
        was_training = generator.training
        generator.eval()
        device = next(generator.parameters()).device
        lr_prev = hr_prev = None
        with_state: list[NDArray[np.uint8]] = []
        without: list[NDArray[np.uint8]] = []
        flows: list[float] = []
        for picture in self.lr:
            lr = torch.from_numpy(picture).to(device).permute(2, 0, 1)[None].float() / 255
            zeros = generator.initial_state(lr)
            if lr_prev is None or hr_prev is None:
                lr_prev, hr_prev = zeros
            else:
                without.append(to_picture(generator.step(lr, *zeros)))
            flow = generator.flow(lr, lr_prev)
            hr_prev = generator.step_with_flow(lr, flow, hr_prev)
            lr_prev = lr
            flows.append(float(flow.norm(dim=1).mean()))
            with_state.append(to_picture(hr_prev))
        without.insert(0, with_state[0])  # the first frame has no past either way
        psnr = self._mean_psnr(with_state)
        stills = self.stills.to(device)
        known = self.still_flow.to(device)
        miss = (generator.flow(stills[:, 1], stills[:, 0]) - known).norm(dim=1).mean()
        generator.train(was_training)
        return Validation(
            psnr=psnr,
            psnr_bicubic=self.bicubic,
            temporal_gain=psnr - self._mean_psnr(without),
            mean_flow=float(np.mean(flows[1:])),
            still_error=float(miss / known.norm(dim=1).mean()),
        )


def read_frames(clip: str, shrink: float, count: int) -> NDArray[np.uint8]:
    """The first (up to) ``count`` frames of a clip, shrunk by area: (N, H, W, 3).

    Raises:
        TecoError: fewer than four frames, or too small to make moved stills of.
        ClipError: the clip cannot be read.
    """
    with open_source(clip, max_frames=count) as source:
        frames = np.stack([shrink_by_area(f.pixels, shrink) for f in source])
    if len(frames) < 4:
        raise TecoError(f"{clip} has {len(frames)} frames, validation needs at least 4")
    return frames


def to_picture(hr: torch.Tensor) -> NDArray[np.uint8]:
    """(1, 3, H, W) in [0, 1] -> (H, W, 3) uint8: rounded, then clipped, as the references save."""
    picture = hr[0].detach().float().permute(1, 2, 0).mul(255).round().clamp(0, 255)
    return np.ascontiguousarray(picture.to(torch.uint8).cpu().numpy())
