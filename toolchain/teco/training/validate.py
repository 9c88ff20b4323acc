"""What a training run is judged by, on clips it does not train on.

Besides PSNR: the *temporal gain* (PSNR with the recurrence minus PSNR with the state zeroed before
every frame), the mean flow, and the flow error on moved stills relative to predicting zero. If the
temporal gain is zero, the network works frame by frame and nothing downstream can be good.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from teco.core.errors import TecoError
from teco.training.data.sequences import (
    BLUR_MARGIN,
    SampleOptions,
    SequenceDataset,
    degrade_crop,
    shot_of,
)
from teco.video.clips import open_source
from teco_calibration.codec import parse, through
from teco_calibration.degrade import baseline, crop_to_multiple, degrade, shrink_by_area
from teco_calibration.metrics.quality import Lpips, psnr_y, tof
from teco_models.arch.generator import Generator, State
from teco_models.checkpoint import AnyGenerator
from teco_models.variant import SCALE, Degradation

BORDER = 8
"""HR pixels left out at each side: the network has no context there, bicubic needs none."""

SKIPPED = 2
"""First frames left out of the averages; they are cold starts by nature."""


STRIP_FRAMES = 3
"""Frames shown in a sample strip, spread over the second half of the clip."""

REAL_CODEC = "x264:23"
"""What the frames of a validation for ordinary clips went through."""

STRIP_CROP = 192
"""HR pixels of each picture in it."""


@dataclass(frozen=True)
class Validation:
    """One validation's numbers.

    Attributes:
        psnr: PSNR-Y in dB.
        psnr_bicubic: of bicubic interpolation, in its place.
        temporal_gain: dB that the recurrence is worth.
        mean_flow: LR pixels; None without a flow net.
        still_error: mean flow error on moved stills, relative to predicting zero; None without a
            flow net.
        lpips: None where it was not asked for, or its backbone is not here.
        tof: pixels; None where it was not asked for.
    """

    psnr: float
    psnr_bicubic: float
    temporal_gain: float
    mean_flow: float | None
    still_error: float | None
    lpips: float | None = None
    tof: float | None = None

    @property
    def gain(self) -> float:
        """dB over bicubic interpolation."""
        return self.psnr - self.psnr_bicubic

    def as_dict(self) -> dict[str, float]:
        """What was measured, by name."""
        numbers = {**asdict(self), "gain": self.gain}
        return {name: value for name, value in numbers.items() if value is not None}

    def to_text(self) -> str:
        """In one line."""
        parts = [
            f"PSNR {self.psnr:.2f} dB ({self.gain:+.2f} over bicubic), temporal gain "
            f"{self.temporal_gain:+.3f} dB"
        ]
        if self.lpips is not None:
            parts.append(f"LPIPS {self.lpips:.4f}")
        if self.tof is not None:
            parts.append(f"tOF {self.tof:.3f}")
        if self.mean_flow is not None:
            flow = f"mean flow {self.mean_flow:.2f} px"
            parts.append(f"{flow}, still error {self.still_error:.2f} of zero's")
        return ", ".join(parts)


class Validator:
    """Validates generators on one clip, degraded once as their training frames are.

    Args:
        frames: (N, H, W, 3) uint8, N >= 4; cropped to multiples of the scale, for a codec of twice
            that.
        seed: of the moved stills.
        degradation: ``"bd"``, or ``"real"``: shrunk by Lanczos, then :data:`REAL_CODEC`.
        scale: of the generators.
    """

    def __init__(
        self,
        frames: NDArray[np.uint8],
        seed: int = 1234,
        degradation: Degradation = "bd",
        scale: int = SCALE,
    ) -> None:
        # 4:2:0 wants even LR sides.
        multiple = 2 * scale if degradation == "real" else scale
        self.truth = [crop_to_multiple(f, multiple) for f in frames]
        self.lr = [degrade(f, degradation, "lanczos", scale) for f in self.truth]
        if degradation == "real":
            self.lr = list(through(np.stack(self.lr), *parse(REAL_CODEC)))
        self.bicubic = [baseline("bicubic", degradation, scale)(lr) for lr in self.lr]
        self.bicubic_psnr = self._mean_psnr(self.bicubic)
        options = SampleOptions(frames=2, batch=64, still_share=1.0, seed=seed)
        sample = SequenceDataset([shot_of("validation", frames)], options, 1)[0]
        b, t = sample.hr.shape[:2]
        pairs = degrade_crop(sample.hr.flatten(0, 1).float() / 255)
        self.stills = pairs.view(b, t, *pairs.shape[1:])  # (64, 2, 3, k, k)
        self.still_flow = sample.flow[:, 0]  # (64, 2, k, k)
        self._lpips: Lpips | None = None
        self._shown: list[NDArray[np.uint8]] = []

    def _mean_psnr(self, pictures: list[NDArray[np.uint8]]) -> float:
        inner = slice(BORDER, -BORDER)
        values = [
            psnr_y(np.ascontiguousarray(t[inner, inner]), np.ascontiguousarray(p[inner, inner]))
            for t, p in list(zip(self.truth, pictures, strict=True))[SKIPPED:]
        ]
        return float(np.mean(values))

    @torch.no_grad()
    def __call__(
        self, generator: AnyGenerator, *, perceptual: bool = False, recurrent: bool = True
    ) -> Validation:
        """Run the clip with and without the recurrence, float32.

        Args:
            generator: left in the mode it came in.
            perceptual: also measure LPIPS and tOF, which take longer.
            recurrent: False for a network that has only been trained on single frames: what it
                makes of a past says nothing yet.
        """
        was_training = generator.training
        generator.eval()
        device = next(generator.parameters()).device
        state: State | None = None
        with_state: list[NDArray[np.uint8]] = []
        without: list[NDArray[np.uint8]] = []
        for picture in self.lr:
            lr = torch.from_numpy(picture).to(device).permute(2, 0, 1)[None].float() / 255
            zeros = generator.initial_state(lr)
            if state is not None:
                without.append(to_pixels(generator.advance(lr, zeros)[0]))
            past = state if state is not None and recurrent else zeros
            hr, state = generator.advance(lr, past)
            with_state.append(to_pixels(hr))
        without.insert(0, with_state[0])  # the first frame has no past either way
        psnr = self._mean_psnr(with_state)
        mean_flow, still_error = self._flow_figures(generator, device)
        generator.train(was_training)
        self._shown = with_state
        return Validation(
            psnr=psnr,
            psnr_bicubic=self.bicubic_psnr,
            temporal_gain=psnr - self._mean_psnr(without),
            mean_flow=mean_flow,
            still_error=still_error,
            lpips=self._mean_lpips(with_state) if perceptual else None,
            tof=self._mean_tof(with_state) if perceptual else None,
        )

    def _flow_figures(
        self, generator: AnyGenerator, device: torch.device
    ) -> tuple[float | None, float | None]:
        """Mean flow on the clip and the relative error on moved stills."""
        if not isinstance(generator, Generator) or generator.fnet is None:
            return None, None
        frames = torch.from_numpy(np.stack(self.lr)).to(device).permute(0, 3, 1, 2).float() / 255
        flows = [
            float(generator.flow(frames[t : t + 1], frames[t - 1 : t]).norm(dim=1).mean())
            for t in range(1, len(frames))
        ]
        stills = self.stills.to(device)
        known = self.still_flow.to(device)
        miss = (generator.flow(stills[:, 1], stills[:, 0]) - known).norm(dim=1).mean()
        return float(np.mean(flows)), float(miss / known.norm(dim=1).mean())

    def _mean_lpips(self, pictures: list[NDArray[np.uint8]]) -> float | None:
        if Lpips.why_unavailable():
            return None
        if self._lpips is None:
            self._lpips = Lpips()
        pairs = list(zip(self.truth, pictures, strict=True))[SKIPPED:]
        return float(np.mean([self._lpips(truth, picture) for truth, picture in pairs]))

    def _mean_tof(self, pictures: list[NDArray[np.uint8]]) -> float:
        pairs = list(zip(self.truth, pictures, strict=True))[SKIPPED:]
        return float(np.mean([tof(a[0], b[0], a[1], b[1]) for a, b in pairwise(pairs)]))

    def sample_strip(self) -> bytes:
        """A PNG of the latest validation: bicubic, output and truth where most is to be seen.

        Raises:
            TecoError: nothing has been validated yet.
        """
        if not self._shown:
            raise TecoError("there is nothing to show before the first validation")
        gray = cv2.cvtColor(self.truth[-1], cv2.COLOR_RGB2GRAY)
        size = min(STRIP_CROP, *gray.shape)
        detail = np.abs(cv2.Laplacian(gray, cv2.CV_32F))
        scores = cv2.boxFilter(detail, -1, (size, size), anchor=(0, 0), normalize=False)
        scores = scores[: gray.shape[0] - size + 1, : gray.shape[1] - size + 1]
        y, x = np.unravel_index(int(scores.argmax()), scores.shape)
        window = (slice(int(y), int(y) + size), slice(int(x), int(x) + size))
        first, last = len(self.truth) // 2, len(self.truth) - 1
        shown = sorted({int(i) for i in np.linspace(first, last, STRIP_FRAMES).round()})
        sources = (self.bicubic, self._shown, self.truth)
        rows = [np.hstack([pictures[i][window] for pictures in sources]) for i in shown]
        _, png = cv2.imencode(".png", cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR))
        return png.tobytes()


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
    h, w = frames.shape[1:3]
    least = SampleOptions().crop + 2 * BLUR_MARGIN
    if min(h, w) < least:
        raise TecoError(
            f"{clip} is {w}x{h} after shrinking, validation needs at least {least}x{least}",
            hint="give a larger clip or a smaller --val-shrink",
        )
    return frames


def to_pixels(hr: torch.Tensor) -> NDArray[np.uint8]:
    """(1, 3, H, W) in [0, 1] -> (H, W, 3) uint8: rounded, then clipped, as the references save."""
    picture = hr[0].detach().float().permute(1, 2, 0).mul(255).round().clamp(0, 255)
    return np.ascontiguousarray(picture.to(torch.uint8).cpu().numpy())
