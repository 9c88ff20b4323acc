"""Make the example clips from kivy's cityCC0.mpg: python scripts/make_examples.py cityCC0.mpg

city.mp4 is what a user has (320x180 with sound), city_hr.mp4 the truth beside it. Only the second
shot is used, from frame 116 on: the first one is among the training clips. The source has no
sound, so city.mp4 gets a quiet synthetic one, to show that sound is carried over.
"""

from __future__ import annotations

import argparse
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt

from teco.video.clips import open_source
from teco.video.colour import Colour, Converter

FIRST, FRAMES, HR_FRAMES = 116, 74, 40
RATE = Fraction(25)
SOUND_RATE = 44_100
FOLDER = Path(__file__).resolve().parent.parent / "examples"


def read_shot(path: Path) -> list[npt.NDArray[np.uint8]]:
    """The second shot, uint8 (405, 720, 3) RGB each."""
    with open_source(path) as source:
        shot = [f.pixels for f in source if FIRST <= f.index < FIRST + FRAMES]
    if len(shot) != FRAMES:
        raise SystemExit(f"{path} has {len(shot)} frames from {FIRST} on, expected {FRAMES}")
    return shot


def ambience(seconds: float) -> npt.NDArray[np.float32]:
    """A far hum of traffic and three soft notes; float32 (1, samples) in [-1, 1]."""
    rng = np.random.default_rng(0)
    t = np.arange(int(seconds * SOUND_RATE)) / SOUND_RATE
    noise = np.convolve(rng.standard_normal(t.size), np.ones(400) / 400, mode="same")
    sound = 0.4 * noise * (1 + 0.3 * np.sin(2 * np.pi * 0.4 * t))
    for start, pitch in ((0.2, 220.0), (1.1, 277.2), (2.0, 329.6)):
        age = np.maximum(t - start, 0)
        sound += 0.05 * np.sin(2 * np.pi * pitch * t) * age * np.exp(1 - 3 * age)
    fade = np.clip(np.minimum(t, seconds - t) / 0.1, 0, 1)
    return (sound * fade).astype(np.float32)[None]


def write(
    path: Path, frames: list[npt.NDArray[np.uint8]], crf: int, *, sound: bool = False
) -> None:
    """H.264 in MP4, BT.709 tags, 25 frames a second."""
    height, width = frames[0].shape[:2]
    colour = Colour("bt709", False, 1, 1)
    converter = Converter(colour)
    with av.open(str(path), "w", container_options={"movflags": "+faststart"}) as out:
        video = out.add_stream(
            "libx264", rate=RATE, options={"crf": str(crf), "preset": "veryslow"}
        )
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.time_base = 1 / RATE
        context = video.codec_context
        context.colorspace = context.color_primaries = context.color_trc = 1
        context.color_range = 1
        voice = out.add_stream("aac", rate=SOUND_RATE, layout="mono") if sound else None
        if voice is not None:
            voice.bit_rate = 48_000
        for index, pixels in enumerate(frames):
            frame = converter.from_rgb(pixels, "yuv420p")
            frame.pts, frame.time_base = index, 1 / RATE
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        if voice is not None:
            samples = ambience(float(len(frames) / RATE))
            piece = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            piece.sample_rate, piece.pts = SOUND_RATE, 0
            out.mux(voice.encode(piece))
            out.mux(voice.encode(None))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="cityCC0.mpg of kivy's examples")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder to write into")
    options = parser.parse_args()
    shot = read_shot(options.source)
    small = [cv2.resize(f, (320, 180), interpolation=cv2.INTER_AREA) for f in shot]
    write(options.out / "city.mp4", small, 18, sound=True)
    # 405 lines are no multiple of 4: the last one goes.
    truth = [np.ascontiguousarray(f[:404]) for f in shot[:HR_FRAMES]]
    write(options.out / "city_hr.mp4", truth, 14)


if __name__ == "__main__":
    main()
