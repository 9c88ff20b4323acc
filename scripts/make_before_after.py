"""The README's picture: bicubic, teco and the truth side by side, moving, from a real clip.

    python scripts/make_before_after.py examples/city_hr.mp4 examples/before_after.webp

The clip is the truth. It is made small as ordinary clips are (Lanczos, x264), upscaled by the usual
model, and one crop of its frames is enlarged. A name that ends in .webp makes an animation, to and
fro; any other a single picture, the last of the frames.
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
from teco_calibration.degrade import upsample_real
from teco_calibration.metrics.quality import psnr_y

BAR = 28
"""Height of the line that names a panel, pixels."""


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
    arguments = parser.parse_args()
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
