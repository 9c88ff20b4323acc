"""Whether `teco preview` answers in time and is right: beside what a part of the clip then takes.

    python scripts/check_preview.py                         # two hours, a part of five minutes
    python scripts/check_preview.py --part 12 --no-second   # quicker, and less sure

It makes the film by repeating examples/city_hr.mp4 at 854x480 (stream copy, in a temporary folder),
asks for a preview, and lets `teco upscale` make a part from the same moment with each of the
preview's networks. An idle machine tells the truth; what else runs slows both.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av

CLIP = Path(__file__).resolve().parents[1] / "examples" / "city_hr.mp4"
WITHIN_S, OFF_BY = 60.0, 0.20


def make_film(path: Path, width: int, height: int, seconds: float) -> int:
    """A film of one shot over and over; its number of frames."""
    with av.open(str(CLIP)) as clip, av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=25, options={"crf": "20", "preset": "fast"})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        frames = [f.reformat(width, height, "yuv420p") for f in clip.decode(video=0)]
        packets = []
        for n, frame in enumerate(frames):
            frame.pts, frame.time_base = n, Fraction(1, 25)
            packets += video.encode(frame)
        packets += video.encode(None)
        coded = [(bytes(p), p.pts * p.time_base, p.dts * p.time_base, p.is_keyframe)
                 for p in packets]  # fmt: skip
        length = Fraction(len(frames), 25)
        rounds = -(-round(seconds * 25) // len(frames))
        for turn in range(rounds):
            for data, pts, dts, key in coded:
                packet = av.Packet(data)
                packet.stream, packet.time_base = video, Fraction(1, 12800)
                packet.pts = round((pts + turn * length) / packet.time_base)
                packet.dts = round((dts + turn * length) / packet.time_base)
                packet.is_keyframe = key
                out.mux(packet)
        return rounds * len(frames)


def teco(*words: object) -> tuple[str, float]:
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "teco", *map(str, words)], capture_output=True, text=True, check=True
    )
    return done.stdout + done.stderr, time.perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--part", type=float, default=300.0, help="seconds that are upscaled")
    parser.add_argument("--size", default="854x480", help="width x height")
    parser.add_argument("--no-second", action="store_true", help="one network only")
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    good = True
    with tempfile.TemporaryDirectory() as name:
        film, folder = Path(name) / "film.mp4", Path(name)
        count = make_film(film, width, height, 3600 * options.hours)
        # What is measured once for a machine, which runtime is the fastest, is known afterwards.
        for turn in ("first", "again"):
            said, took = teco("preview", film, "-o", folder / "page.html")
            size = (folder / "page.html").stat().st_size / 1e6
            print(f"preview of {count} frames, {turn}: {took:.1f} s, page of {size:.1f} MB")
        print(said)
        good &= took <= WITHIN_S
        rows = re.findall(r"^(real\S+) +([\d.,]+) ", said, re.MULTILINE)
        for model, ms in rows[: 1 if options.no_second else None]:
            part = folder / f"{model}.mkv"
            start = 1800 * options.hours
            said, took = teco("upscale", film, part, "--model", model, "--start", start,
                              "--end", start + options.part, "--yes")  # fmt: skip
            made = re.search(r"^(\d+) frames, .* ([\d.]+) s: ", said, re.MULTILINE)
            assert made, said
            frame = 1000 * float(made[2]) / int(made[1])
            off = float(ms.replace(",", "")) / frame - 1
            good &= abs(off) <= OFF_BY
            print(f"{model}: {ms} ms a frame foretold, {frame:.0f} taken by {made[1]}: {off:+.0%}")
    print("within bounds" if good else "OUT OF BOUNDS")
    return not good


if __name__ == "__main__":
    sys.exit(main())
