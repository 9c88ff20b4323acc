"""The pictures of README and documentation: what networks make of a real clip, beside the truth.

    python scripts/make_before_after.py examples/city_hr.mp4 examples/before_after.webp
    python scripts/make_before_after.py examples/city_hr.mp4 docs/pictures

The clip is the truth. It is made small as ordinary clips are (Lanczos, x264), upscaled by the usual
model, and one crop of its frames is enlarged. A name that ends in .webp makes an animation, to and
fro; any other a single picture, the last of the frames.

A folder gets a lossless picture for each shipped model, for bicubic and for the truth: three crops
of the last frame, side by side, whose middles divide the frame's diagonal into quarters. Networks
for papers are given what they were trained for: BD, without a codec.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from teco.evaluation.quality import degraded_pairs
from teco.inference.stream import Stream
from teco.model.opening import DEFAULT_MODEL, open_model
from teco.runtimes import SessionOptions, open_session
from teco_calibration.degrade import baseline, upsample_real
from teco_calibration.metrics.quality import psnr_y
from teco_models import zoo

BAR = 28
"""Height of the line that names a panel, pixels."""
CROP = (120, 160)
"""(h, w) of the crops of a folder, of the truth."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clip")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--first", type=int, default=12, help="frame that is shown first")
    parser.add_argument("--frames", type=int, default=16, help="that are shown")
    parser.add_argument("--crop", default="280,90,200,150", help="x,y,width,height of the truth")
    parser.add_argument("--zoom", type=int, default=2)
    parser.add_argument("--shrink", type=float, default=1.0)
    parser.add_argument("--codec", default="x264:23", help="and its quality")
    parser.add_argument("--model", action="append", help="of a folder, these alone")
    arguments = parser.parse_args()
    if not arguments.picture.suffix:
        folder(arguments)
        return
    x, y, w, h = (int(v) for v in arguments.crop.split(","))
    session = open_session(open_model(DEFAULT_MODEL), "auto", SessionOptions())
    stream = Stream(session)
    count = arguments.first + arguments.frames
    shown: list[dict[str, np.ndarray]] = []
    pairs = degraded_pairs(arguments.clip, "real", arguments.shrink, count, codec=arguments.codec)
    for n, (truth, lr) in enumerate(pairs):
        pictures = {
            "bicubic": upsample_real(lr, "bicubic"),
            "teco": stream.push(lr),
            "truth": truth,
        }
        if n >= arguments.first:
            shown.append(
                {k: np.ascontiguousarray(v[y : y + h, x : x + w]) for k, v in pictures.items()}
            )
    if len(shown) < arguments.frames:
        raise SystemExit(f"{arguments.clip} has no frame {count - 1}")
    # One figure for all frames: what changes in a picture that moves cannot be read.
    texts = {
        name: f"{name}, {np.mean([psnr_y(s['truth'], s[name]) for s in shown]):.2f} dB here"
        for name in ("bicubic", "teco")
    }
    frames = [panels(crops, texts, arguments.zoom) for crops in shown]
    if arguments.picture.suffix != ".webp":
        cv2.imwrite(str(arguments.picture), frames[-1])
        return
    animation = cv2.Animation()
    animation.frames = [*frames, *frames[-2:0:-1]]
    animation.durations = np.full(len(animation.frames), 40, np.int32)
    cv2.imwriteanimation(str(arguments.picture), animation, [cv2.IMWRITE_WEBP_QUALITY, 80])


def folder(arguments: argparse.Namespace) -> None:
    """A picture of each method; the frames of all that share a degradation are made once."""
    arguments.picture.mkdir(parents=True, exist_ok=True)
    count = arguments.first + arguments.frames
    names = arguments.model or [entry.name for entry in zoo.entries()]
    models = {name: open_model(name) for name in names}
    for kind, scale in sorted({(m.variant.degradation, m.variant.scale) for m in models.values()}):
        codec = arguments.codec if kind == "real" else ""
        pairs = list(
            degraded_pairs(arguments.clip, kind, arguments.shrink, count, codec=codec, scale=scale)
        )
        truth, small = pairs[-1]
        known = f"{'' if kind == 'real' else f'-{kind}'}{'' if scale == 4 else f'-x{scale}'}"
        save(arguments.picture / "truth.webp", truth)
        bicubic = baseline("bicubic", kind, scale)(small)
        save(arguments.picture / f"bicubic{known}.webp", bicubic)
        for name, model in models.items():
            if (model.variant.degradation, model.variant.scale) == (kind, scale):
                stream = Stream(open_session(model, "onnxruntime", SessionOptions()))
                picture = [stream.push(lr) for _, lr in pairs][-1]
                save(arguments.picture / f"{name}.webp", picture)


def save(path: Path, picture: np.ndarray) -> None:
    """The three crops of a picture, (h, w, 3) uint8 RGB, without loss."""
    (high, wide), (h, w) = picture.shape[:2], CROP
    middles = [(high * n // 4, wide * n // 4) for n in (1, 2, 3)]
    crops = [picture[y - h // 2 :, x - w // 2 :][:h, :w] for y, x in middles]
    rgb = cv2.cvtColor(np.hstack(crops), cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(path), rgb, [cv2.IMWRITE_WEBP_QUALITY, 101])  # above 100 is lossless


def panels(crops: dict[str, np.ndarray], texts: dict[str, str], zoom: int) -> np.ndarray:
    """The crops of a frame side by side under their names, (h, w, 3) uint8 BGR."""
    found: list[np.ndarray] = []
    for name, crop in crops.items():
        big = cv2.resize(crop, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_NEAREST)
        bar = np.full((BAR, big.shape[1], 3), 255, np.uint8)
        text = texts.get(name, name)
        cv2.putText(bar, text, (6, 19), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
        found += [np.vstack((bar, big)), np.full((BAR + big.shape[0], 6, 3), 255, np.uint8)]
    return cv2.cvtColor(np.hstack(found[:-1]), cv2.COLOR_RGB2BGR)


if __name__ == "__main__":
    main()
