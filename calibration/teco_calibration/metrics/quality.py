"""How good a sequence is, beside its truth: PSNR, SSIM, LPIPS, tOF, tLP and flicker.

The definitions are those of TecoGAN's official evaluation (``metrics.py`` of thunil/TecoGAN), so
that numbers stand beside published ones: frames 2 .. N-3 count, on a centred window of whole
multiples of 32 pixels; :class:`SequenceQuality` applies both rules. SSIM and flicker are not in
that script and are measured on the same frames and window. The functions for single pictures
apply no rule but what their text says.

Pictures are uint8 (H, W, 3) RGB, full range. Errors are :class:`ClipError`. OpenCV and torch are
imported on first use; only LPIPS and tLP need torch.
"""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from teco_calibration.errors import ClipError
from teco_calibration.metrics.lpips_backbone import FETCH_COMMAND, find_backbone, load_backbone

if TYPE_CHECKING:
    import torch

Pixels = npt.NDArray[np.uint8]
Metric = Literal["psnr", "ssim", "lpips", "tof", "tlp", "flicker"]
_Plane = npt.NDArray[np.float64]

OFFICIAL_METRICS: tuple[Metric, ...] = ("psnr", "ssim", "lpips", "tof", "tlp")
UNITS: Mapping[Metric, str] = {
    "psnr": "dB",
    "ssim": "",
    "lpips": "",
    "tof": "px",
    "tlp": "x100",
    "flicker": "8-bit steps",
}
HIGHER_IS_BETTER: frozenset[Metric] = frozenset({"psnr", "ssim"})
"""Of the others, lower is better."""

_PAIRED: frozenset[Metric] = frozenset({"tof", "tlp", "flicker"})
_NEEDS_LPIPS: frozenset[Metric] = frozenset({"lpips", "tlp"})


# --- single pictures -------------------------------------------------------------------------


def rgb_to_y(picture: Pixels) -> _Plane:
    """Luma of BT.601 in studio range, not rounded.

    16 + 65.481 R + 128.553 G + 24.966 B for RGB in [0, 1];
    uint8 (H, W, 3) -> float64 (H, W) in [16, 235].
    """
    _check(picture)
    r, g, b = (picture[..., c].astype(np.float64) for c in range(3))
    return 16 + (65.481 * r + 128.553 * g + 24.966 * b) / 255


def psnr_y(gt: Pixels, out: Pixels) -> float:
    """Peak signal-to-noise ratio in dB on :func:`rgb_to_y`, peak 255; inf for equal luma.

    The peak is 255 although studio luma spans 219: that is the field's convention.
    """
    _check_pair(gt, out)
    return _psnr(rgb_to_y(gt), rgb_to_y(out))


def ssim_y(gt: Pixels, out: Pixels) -> float:
    """Structural similarity on :func:`rgb_to_y`: Wang et al. 2004, mean of the valid region.

    11x11 Gaussian window of sigma 1.5, population covariance, K1 = 0.01, K2 = 0.03, L = 255.
    At most 1, which equal pictures reach.

    Raises:
        ClipError: a side is shorter than 11 pixels.
    """
    _check_pair(gt, out)
    return _ssim(rgb_to_y(gt), rgb_to_y(out))


def _psnr(gt: _Plane, out: _Plane) -> float:
    mse = float(np.mean((gt - out) ** 2))
    return math.inf if mse == 0 else 10 * math.log10(255**2 / mse)


def _ssim(gt: _Plane, out: _Plane) -> float:
    import cv2

    if min(gt.shape) < 11:
        raise ClipError(
            f"SSIM needs pictures of at least 11x11 pixels, not {gt.shape[1]}x{gt.shape[0]}"
        )
    x = np.arange(-5, 6, dtype=np.float64)
    taps = np.exp(-(x**2) / (2 * 1.5**2))
    taps /= taps.sum()

    def mean(plane: _Plane) -> _Plane:
        blurred = np.asarray(cv2.sepFilter2D(plane, cv2.CV_64F, taps, taps), np.float64)
        return blurred[5:-5, 5:-5]  # where the window lies inside the picture

    mu0, mu1 = mean(gt), mean(out)
    var0 = mean(gt * gt) - mu0 * mu0
    var1 = mean(out * out) - mu1 * mu1
    covariance = mean(gt * out) - mu0 * mu1
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = (2 * mu0 * mu1 + c1) * (2 * covariance + c2)
    similarity /= (mu0 * mu0 + mu1 * mu1 + c1) * (var0 + var1 + c2)
    return float(similarity.mean())


# --- the window ------------------------------------------------------------------------------


class Window(NamedTuple):
    """The part of a picture that is measured, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, picture: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The window of an array (H, W, ...), as a view."""
        return picture[self.top : self.top + self.height, self.left : self.left + self.width]


def official_window(height: int, width: int) -> Window:
    """The centred window of the official evaluation.

    Each side is the largest multiple of 32 that leaves at least 16 pixels out; the offset is
    half of what is left out, rounded down. A picture with a side below 48 pixels has no such
    window and is measured whole: a rule of ours, the official script finds nothing to measure.
    """
    if min(height, width) < 48:
        return Window(0, 0, height, width)
    h, w = (height - 16) // 32 * 32, (width - 16) // 32 * 32
    return Window((height - h) // 2, (width - w) // 2, h, w)


# --- motion ----------------------------------------------------------------------------------


def tof(gt_prev: Pixels, gt: Pixels, out_prev: Pixels, out: Pixels) -> float:
    """Mean end-point error, in pixels, between the motion of the truth and that of the output.

    Motion is Farneback's optical flow from the previous frame to this one on 8-bit grey, whole
    frames, with the official parameters; the flows are cut to :func:`official_window`.
    """
    for picture in (gt, out_prev, out):
        _check_pair(gt_prev, picture)
    return _tof(_grey(gt_prev), _grey(gt), _grey(out_prev), _grey(out))


def _grey(picture: Pixels) -> Pixels:
    import cv2

    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8)


def _flow(previous: Pixels, current: Pixels) -> npt.NDArray[np.float32]:
    """Grey uint8 (H, W) twice -> float32 (H, W, 2): dx, dy in pixels."""
    import cv2

    # OpenCV takes None for "allocate the result", which its stubs do not say.
    flow = cv2.calcOpticalFlowFarneback(
        previous, current, cast("Any", None), 0.5, 3, 15, 3, 5, 1.2, 0
    )
    return np.asarray(flow, np.float32)


def _tof(gt_prev: Pixels, gt: Pixels, out_prev: Pixels, out: Pixels) -> float:
    difference = _flow(gt_prev, gt) - _flow(out_prev, out)
    difference = official_window(*gt.shape).cut(difference)
    return float(np.sqrt((difference * difference).sum(axis=-1)).mean(dtype=np.float64))


def flicker(gt_prev: Pixels, gt: Pixels, out_prev: Pixels, out: Pixels) -> float:
    """Mean absolute change of the luma error from one frame to the next, in 8-bit steps.

    0 where the error stands still, however large it is. Not an official metric, and cheap.
    """
    for picture in (gt, out_prev, out):
        _check_pair(gt_prev, picture)
    before = rgb_to_y(out_prev) - rgb_to_y(gt_prev)
    return float(np.abs(rgb_to_y(out) - rgb_to_y(gt) - before).mean())


# --- LPIPS -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class LpipsFeatures:
    """What LPIPS sees in N pictures: five unit-normalised feature maps, (N, C, h, w) each.

    Comes from :meth:`Lpips.encode`, goes to :meth:`Lpips.between`; roughly 30 bytes per pixel
    of a picture. Keeping it saves the network's time where a picture is compared twice.
    """

    layers: tuple[torch.Tensor, ...] = field(repr=False)


class Lpips:
    """LPIPS v0.1 on AlexNet, with the heads of the ``lpips`` package; lower is closer.

    Never downloads: the backbone must be in torchvision's cache or in teco's own
    (:mod:`teco_calibration.metrics.lpips_backbone`). Constructing it takes a second or more and
    leaves torch's random state as it was.

    Args:
        device: where it runs, as torch names it. On a GPU, torch may use TF32 convolutions,
            which change the fourth digit.

    Raises:
        ClipError: exit code 3, with :meth:`why_unavailable`.
    """

    def __init__(self, device: str = "cpu") -> None:
        if reason := self.why_unavailable():
            raise ClipError(reason, exit_code=3)
        import lpips
        import torch

        weights = load_backbone("alexnet")
        # lpips asks torchvision for its backbone by an argument that torchvision warns of, twice.
        # The backbone starts random (pnet_rand) so that nothing is downloaded; the random state
        # is put back, since a training loop may be measuring.
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.filterwarnings("ignore", "The parameter 'pretrained' is deprecated")
            warnings.filterwarnings("ignore", "Arguments other than a weight enum or `None`")
            net = cast("Any", lpips.LPIPS(net="alex", version="0.1", pnet_rand=True, verbose=False))
        # lpips files torchvision's features.<i> under slice<n>.<i>.
        state = {
            key: torch.from_numpy(weights["features." + key.partition(".")[2]])
            for key in net.net.state_dict()
        }
        net.net.load_state_dict(state, strict=True)
        self._net = net.to(device).eval().requires_grad_(False)
        self._device = device

    @staticmethod
    def why_unavailable() -> str | None:
        """The sentence that says what to install or fetch; None where LPIPS can be measured.

        Imports none of the packages it looks for.
        """
        absent = [
            name
            for name in ("torch", "torchvision", "lpips")
            if importlib.util.find_spec(name) is None
        ]
        if absent:
            return f'LPIPS needs {" and ".join(absent)}: pip install "teco[torch]"'
        if find_backbone("alexnet") is None:
            return f"LPIPS needs its AlexNet backbone, which is fetched once with: {FETCH_COMMAND}"
        return None

    def encode(self, pictures: Pixels) -> LpipsFeatures:
        """Run the backbone.

        Args:
            pictures: uint8 (N, H, W, 3), or (H, W, 3) for one; sides of at least 31 pixels.
        """
        import torch

        batch = pictures[None] if pictures.ndim == 3 else pictures
        if batch.ndim != 4:
            raise ClipError(f"LPIPS takes (N, H, W, 3) or (H, W, 3), not {pictures.shape}")
        _check(batch[0])
        height, width = batch.shape[1:3]
        if min(height, width) < 31:
            raise ClipError(f"LPIPS needs pictures of at least 31x31 pixels, not {width}x{height}")
        with torch.inference_mode():
            # (N, H, W, 3) in 0..255 -> (N, 3, H, W) in [-1, 1]
            x = torch.from_numpy(np.ascontiguousarray(batch.transpose(0, 3, 1, 2)))
            x = x.to(self._device).float() / 127.5 - 1
            layers = self._net.net(self._net.scaling_layer(x))
            # 1e-10 as in lpips.normalize_tensor
            return LpipsFeatures(
                tuple(f / (f.pow(2).sum(dim=1, keepdim=True).sqrt() + 1e-10) for f in layers)
            )

    def between(self, a: LpipsFeatures, b: LpipsFeatures) -> npt.NDArray[np.float64]:
        """Distances of N pictures from N others, float64 (N,); both encoded at one size."""
        import torch

        with torch.inference_mode():
            parts = [
                head((x - y) ** 2).mean(dim=(1, 2, 3))
                for head, x, y in zip(self._net.lins, a.layers, b.layers, strict=True)
            ]
            return torch.stack(parts).sum(dim=0).cpu().numpy().astype(np.float64)

    def __call__(self, gt: Pixels, out: Pixels) -> float:
        """The distance of two pictures, uint8 (H, W, 3)."""
        _check_pair(gt, out)
        return float(self.between(self.encode(gt), self.encode(out))[0])


def tlp(gt_prev: Pixels, gt: Pixels, out_prev: Pixels, out: Pixels, *, lpips: Lpips) -> float:
    """Does the output change as much as the truth? 100 |LPIPS(gt pair) - LPIPS(out pair)|."""
    for picture in (gt, out_prev, out):
        _check_pair(gt_prev, picture)
    return abs(lpips(gt_prev, gt) - lpips(out_prev, out)) * 100


# --- sequences -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SequenceResult:
    """What was measured on one sequence; every value is kept."""

    seen: int
    """Frames added."""
    frames: int
    """Frames that count."""
    first: int
    """Index of the first frame that counts."""
    window: Window
    """The part of the pictures that was measured."""
    values: Mapping[Metric, tuple[float, ...]]
    """One value per counted frame; per pair of neighbours for tof, tlp and flicker."""
    notes: tuple[str, ...]
    """Where the official rules did not fit the sequence, in sentences."""

    @property
    def means(self) -> dict[Metric, float]:
        """The mean of every metric that has values (inf where a PSNR is)."""
        return {metric: fmean(values) for metric, values in self.values.items() if values}


@dataclass
class _Measured:
    """What the next frame needs of the last one that counted."""

    gt_grey: Pixels | None = None
    out_grey: Pixels | None = None
    gt_features: LpipsFeatures | None = None
    out_features: LpipsFeatures | None = None
    error: _Plane | None = None


class SequenceQuality:
    """Measures a sequence frame by frame, in memory that does not grow with its length.

    ::

        quality = SequenceQuality(lpips=Lpips())
        for gt, out in zip(truth, upscaled, strict=True):
            quality.add(gt, out)
        print(quality.result().means)

    A frame is measured once ``drop_ends`` more have come, so at most ``2 * drop_ends + 1`` pairs
    wait. A sequence of ``2 * drop_ends`` frames or fewer has nothing between its ends: then no
    frame is dropped, and ``notes`` says so.

    Args:
        metrics: what to measure.
        lpips: needed for ``lpips`` and ``tlp``; one object serves many sequences.
        drop_ends: frames that do not count, at each end; 2 in the official script.

    Raises:
        ClipError: an unknown metric, or one that needs ``lpips`` without it.
    """

    def __init__(
        self,
        metrics: Sequence[Metric] = OFFICIAL_METRICS,
        *,
        lpips: Lpips | None = None,
        drop_ends: int = 2,
    ) -> None:
        unknown = [metric for metric in metrics if metric not in UNITS]
        if unknown:
            raise ClipError(
                f"there is no metric called {unknown[0]!r}", hint=f"known: {', '.join(UNITS)}"
            )
        needing = [metric for metric in metrics if metric in _NEEDS_LPIPS]
        if needing and lpips is None:
            raise ClipError(
                f"{' and '.join(needing)} cannot be measured without the LPIPS network",
                hint=Lpips.why_unavailable() or "pass lpips=Lpips(), or leave the metrics out",
                exit_code=3,
            )
        if drop_ends < 0:
            raise ClipError(f"drop_ends must be 0 or more, not {drop_ends}")
        self._metrics = tuple(dict.fromkeys(metrics))
        self._lpips = lpips
        self._drop = drop_ends
        self._values: dict[Metric, list[float]] = {metric: [] for metric in self._metrics}
        self._waiting: deque[tuple[Pixels, Pixels]] = deque()
        self._last: _Measured | None = None
        self._window: Window | None = None
        self._shape: tuple[int, ...] = ()
        self._seen = 0
        self._frames = 0
        self._cut_output = False
        self._result: SequenceResult | None = None

    def add(self, gt: Pixels, out: Pixels) -> None:
        """Take the next frame and its truth; both are copied.

        Args:
            gt: the truth, uint8 (H, W, 3), one size for the whole sequence.
            out: what is measured, of the same size. A larger one is cut at the bottom and right,
                as the official script does with truths that are no multiple of the scale.

        Raises:
            ClipError: types or sizes do not fit, or :meth:`result` was asked for already.
        """
        if self._result is not None:
            raise ClipError("this sequence was closed by result(); measure another one afresh")
        _check(gt)
        _check(out)
        height, width = gt.shape[:2]
        self._shape = self._shape or gt.shape
        if gt.shape != self._shape:
            raise ClipError(
                f"frame {self._seen} of the truth is {_size(gt.shape)}, the ones before it are "
                f"{_size(self._shape)}"
            )
        if out.shape[0] < height or out.shape[1] < width:
            raise ClipError(
                f"frame {self._seen} of the output is {_size(out.shape)}, smaller than its truth "
                f"of {_size(gt.shape)}",
                hint="measure at the size of the truth",
            )
        if out.shape != gt.shape:
            self._cut_output = True
            out = out[:height, :width]
        self._seen += 1
        self._waiting.append((gt.copy(), out.copy()))
        if self._seen == 2 * self._drop + 1:  # long enough: the first ones do not count
            for _ in range(self._drop):
                self._waiting.popleft()
        if self._seen >= 2 * self._drop + 1:
            self._measure(*self._waiting.popleft())

    def result(self) -> SequenceResult:
        """Close the sequence; asking again gives the same answer.

        Raises:
            ClipError: no frame was added.
        """
        if self._result is None:
            self._result = self._close()
        return self._result

    def _close(self) -> SequenceResult:
        if not self._seen:
            raise ClipError("there are no frames to measure")
        short = self._seen < 2 * self._drop + 1
        notes: list[str] = []
        if short:
            for gt, out in self._waiting:
                self._measure(gt, out)
            notes.append(
                f"a sequence of {self._seen} has no frames between the {self._drop} at each end "
                "that do not count officially: every frame counts"
            )
        self._waiting.clear()
        height, width = self._shape[:2]
        window = official_window(height, width)
        if min(height, width) < 48:
            notes.append(
                f"pictures of {width}x{height} are too small for the official window (48 pixels "
                "a side): they are measured whole"
            )
        if self._cut_output:
            notes.append("outputs were cut at the bottom and right to the size of the truth")
        empty = [metric for metric in self._metrics if not self._values[metric]]
        if empty:
            notes.append(f"one frame makes no pair: no value for {', '.join(empty)}")
        return SequenceResult(
            seen=self._seen,
            frames=self._frames,
            first=0 if short else self._drop,
            window=window,
            values={metric: tuple(values) for metric, values in self._values.items()},
            notes=tuple(notes),
        )

    def _measure(self, gt: Pixels, out: Pixels) -> None:
        """Measure one frame that counts, and with its predecessor if there is one."""
        wanted, values, last, now = self._metrics, self._values, self._last, _Measured()
        window = official_window(*gt.shape[:2])
        if "tof" in wanted:
            now.gt_grey, now.out_grey = _grey(gt), _grey(out)  # whole frames; the flow is cut
            if last and last.gt_grey is not None and last.out_grey is not None:
                values["tof"].append(_tof(last.gt_grey, now.gt_grey, last.out_grey, now.out_grey))
        gt, out = window.cut(gt), window.cut(out)
        if not {"psnr", "ssim", "flicker"}.isdisjoint(wanted):
            gt_y, out_y = rgb_to_y(gt), rgb_to_y(out)
            if "psnr" in wanted:
                values["psnr"].append(_psnr(gt_y, out_y))
            if "ssim" in wanted:
                values["ssim"].append(_ssim(gt_y, out_y))
            if "flicker" in wanted:
                now.error = out_y - gt_y
                if last and last.error is not None:
                    values["flicker"].append(float(np.abs(now.error - last.error).mean()))
        if self._lpips is not None and not _NEEDS_LPIPS.isdisjoint(wanted):
            between = self._lpips.between
            now.gt_features = self._lpips.encode(gt)
            now.out_features = self._lpips.encode(out)
            if "lpips" in wanted:
                values["lpips"].append(float(between(now.gt_features, now.out_features)[0]))
            if "tlp" in wanted and last and last.gt_features and last.out_features:
                truth = float(between(last.gt_features, now.gt_features)[0])
                output = float(between(last.out_features, now.out_features)[0])
                values["tlp"].append(abs(truth - output) * 100)
        self._last = now
        self._frames += 1


@dataclass(frozen=True, kw_only=True)
class Averages:
    """Two ways to average several sequences; published tables use either, so name which."""

    frame_average: Mapping[Metric, float]
    """Over all values of all sequences: long sequences weigh more."""
    folder_average: Mapping[Metric, float]
    """Over the sequences' means: each sequence weighs the same."""
    frames: int
    sequences: int


def average(results: Sequence[SequenceResult]) -> Averages:
    """Average sequences that were measured with the same metrics.

    A sequence too short to have a value of some metric does not take part in that metric, and a
    metric without any value is left out.

    Raises:
        ClipError: no result, or results with different metrics.
    """
    if not results:
        raise ClipError("there are no sequences to average")
    metrics = results[0].values.keys()
    if any(result.values.keys() != metrics for result in results):
        raise ClipError("sequences measured with different metrics cannot be averaged")
    frame: dict[Metric, float] = {}
    folder: dict[Metric, float] = {}
    for metric in metrics:
        lists = [result.values[metric] for result in results if result.values[metric]]
        if lists:
            frame[metric] = fmean(value for values in lists for value in values)
            folder[metric] = fmean(fmean(values) for values in lists)
    return Averages(
        frame_average=frame,
        folder_average=folder,
        frames=sum(result.frames for result in results),
        sequences=len(results),
    )


# --- checks ----------------------------------------------------------------------------------


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"


def _check(picture: Pixels) -> None:
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ClipError(
            f"a picture must be uint8 (height, width, 3), not {picture.dtype} {picture.shape}"
        )
    if 0 in picture.shape:
        raise ClipError(f"a picture of shape {picture.shape} has no pixels")


def _check_pair(a: Pixels, b: Pixels) -> None:
    _check(a)
    _check(b)
    if a.shape != b.shape:
        raise ClipError(f"pictures of {_size(a.shape)} and {_size(b.shape)} cannot be compared")
