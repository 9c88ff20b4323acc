"""The README's picture: bicubic, teco and the truth side by side, from a real clip.

    python scripts/make_before_after.py examples/city_hr.mp4 examples/before_after.png

The clip is the truth. It is made small as ordinary clips are (Lanczos, x264), upscaled by the usual
model, and one crop of one frame is enlarged.
"""

from __future__ import annotations

import argparse

import cv2
import numpy as np

from teco.evaluation.quality import degraded_pairs
from teco.inference.stream import Stream
from teco.model.opening import DEFAULT_MODEL, open_model
from teco.runtimes import SessionOptions, open_session
from teco_calibration.degrade import upsample_real
from teco_calibration.metrics.quality import psnr_y


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clip")
    parser.add_argument("picture")
    parser.add_argument("--frame", type=int, default=20)
    parser.add_argument("--crop", default="280,90,200,150", help="x,y,width,height of the truth")
    parser.add_argument("--zoom", type=int, default=2)
    parser.add_argument("--shrink", type=float, default=1.0)
    parser.add_argument("--codec", default="x264:23", help="and its quality")
    arguments = parser.parse_args()
    x, y, w, h = (int(v) for v in arguments.crop.split(","))
    session = open_session(open_model(DEFAULT_MODEL), "auto", SessionOptions())
    stream = Stream(session)
    pairs = degraded_pairs(
        arguments.clip, "real", arguments.shrink, arguments.frame + 1, codec=arguments.codec
    )
    for n, pair in enumerate(pairs):
        truth, lr = pair
        ours = stream.push(lr)
        if n == arguments.frame:
            break
    else:
        raise SystemExit(f"{arguments.clip} has no frame {arguments.frame}")
    panels: list[np.ndarray] = []
    for label, picture in (
        ("bicubic", upsample_real(lr, "bicubic")),
        ("teco", ours),
        ("truth", truth),
    ):
        crop = np.ascontiguousarray(picture[y : y + h, x : x + w])
        text = label
        if label != "truth":
            part = np.ascontiguousarray(truth[y : y + h, x : x + w])
            text = f"{label}, {psnr_y(part, crop):.2f} dB here"
        big = cv2.resize(
            crop, None, fx=arguments.zoom, fy=arguments.zoom, interpolation=cv2.INTER_NEAREST
        )
        bar = np.full((28, big.shape[1], 3), 255, np.uint8)
        cv2.putText(bar, text, (6, 19), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
        panels.append(np.vstack((bar, big)))
        panels.append(np.full((panels[-1].shape[0], 6, 3), 255, np.uint8))
    cv2.imwrite(arguments.picture, cv2.cvtColor(np.hstack(panels[:-1]), cv2.COLOR_RGB2BGR))


if __name__ == "__main__":
    main()
