"""Every way in which teco runs inside something else, behind one small protocol.

A new one: write a class with what :class:`Embedding` asks, add it to EMBEDDINGS, and
tests/test_embeddings.py holds it to `teco upscale` frame for frame.
"""

from __future__ import annotations

import random
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import av
import numpy as np
from native_players import Frei0rInGStreamer, InFfmpeg, InGStreamer, InMpv, LibTeco
from vapoursynth_home import home

Pictures = list[np.ndarray]
"""(h, w, 3) uint8 RGB, in the order in which they are shown."""


@dataclass(frozen=True, kw_only=True)
class Play:
    """One thing to play.

    Attributes:
        clip: a lossless video file, RGB (FFV1 in Matroska), 25 frames a second.
        folder: the same frames as PNGs, 0000.png, ...
        model: an ONNX file with its manifest beside it.
        threads: how many threads the player may ask from; the network itself runs on one.
        times: play it so often from the beginning, in one process where that is possible.
        scratch: an empty folder for whatever is needed.
    """

    clip: Path
    folder: Path
    model: Path
    threads: int
    times: int
    scratch: Path

    @property
    def frames(self) -> Pictures:
        return read_video(self.clip)

    @property
    def scale(self) -> int:
        """How many times the model enlarges."""
        from teco.model.opening import open_model

        return open_model(str(self.model)).variant.scale


class Embedding(Protocol):
    """A player with teco in it."""

    name: str
    runtime: str
    """As ``teco upscale --runtime``: what the offline pictures are made with."""
    tolerance: int
    """Largest difference in 8-bit steps; 0 where the runtime is the same."""
    scene_cuts: bool
    """Whether it looks for cuts; if not, the offline pictures are made without, too."""
    slow: bool
    """Whether it takes more than about a second to start."""

    def why_not(self) -> str | None:
        """None where it can run here, else one sentence that says what is missing."""
        ...

    def play(self, play: Play) -> list[Pictures]:
        """Play it ``times`` times; the enlarged pictures of each."""
        ...


def read_video(path: Path) -> Pictures:
    """All frames of an RGB video file."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def write_lossless(path: Path, pictures: Pictures) -> Path:
    """FFV1 in Matroska, RGB without chroma subsampling: what is decoded is what was written."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "bgr0"
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            out.mux(stream.encode(frame.reformat(format="bgr0")))
        out.mux(stream.encode(None))
    return path


# --- Python ----------------------------------------------------------------------------------


class InOrder:
    """``teco.Stream``, one picture after the other."""

    name = "stream"
    runtime = "onnxruntime"
    tolerance = 0
    scene_cuts = True
    slow = False

    def why_not(self) -> str | None:
        return None

    def play(self, play: Play) -> list[Pictures]:
        import teco

        found: list[Pictures] = []
        with teco.Stream.open(str(play.model), runtime=self.runtime, threads=1) as stream:
            for _ in range(play.times):
                found.append([stream.push(picture) for picture in play.frames])
                stream.reset()
        return found


class OnDemand(InOrder):
    """``teco.Stream.at`` from several threads, which ask a little out of order."""

    name = "stream-at"

    def play(self, play: Play) -> list[Pictures]:
        import teco

        frames = play.frames
        found: list[Pictures] = []
        with (
            teco.Stream.open(str(play.model), runtime=self.runtime, threads=1) as stream,
            ThreadPoolExecutor(play.threads) as pool,
        ):
            for repetition in range(play.times):
                asked: deque[tuple[int, Future[np.ndarray]]] = deque()
                out: dict[int, np.ndarray] = {}
                for n in nearly_sorted(len(frames), play.threads, seed=repetition):
                    # As players do: while one thread waits, the others do not run off to the end.
                    if len(asked) == play.threads:
                        oldest, picture = asked.popleft()
                        out[oldest] = picture.result()
                    asked.append((n, pool.submit(stream.at, n, frames.__getitem__)))
                out |= {n: picture.result() for n, picture in asked}
                found.append([out[n] for n in range(len(frames))])
                stream.reset()
        return found


def nearly_sorted(count: int, reach: int, *, seed: int) -> list[int]:
    """0 to count - 1, shuffled so that none comes more than about ``reach`` places early."""
    rng = random.Random(seed)
    return sorted(range(count), key=lambda n: n + rng.random() * (reach - 1) * 0.999)


# --- VapourSynth -----------------------------------------------------------------------------

_SPLICED = """
import vapoursynth as vs
from teco.vs import upscale

vs.core.num_threads = {threads}
clip = vs.core.bs.VideoSource({clip!r})
played = [upscale(clip, model={model!r}, runtime="onnxruntime", threads=1) for _ in range({times})]
vs.core.std.Splice(played).set_output()
"""


class Vspipe:
    """The VapourSynth filter in the real vspipe, asked from several threads."""

    name = "vapoursynth"
    runtime = "onnxruntime"
    tolerance = 0
    scene_cuts = True
    slow = True

    def why_not(self) -> str | None:
        found = home()
        return found if isinstance(found, str) else None

    def play(self, play: Play) -> list[Pictures]:
        at = home()
        assert not isinstance(at, str)
        script, out = play.scratch / "play.vpy", play.scratch / "play.raw"
        script.write_text(
            _SPLICED.format(
                threads=play.threads, clip=str(play.clip), model=str(play.model), times=play.times
            )
        )
        done = at.run(at.vspipe, "-r", max(2, play.threads), script, out)
        assert done.returncode == 0, done.stderr.decode()
        height, width = (play.scale * side for side in play.frames[0].shape[:2])
        # vspipe writes the planes of RGB as G, B, R.
        planes = np.fromfile(out, np.uint8).reshape(play.times, -1, 3, height, width)
        return [[picture[[2, 0, 1]].transpose(1, 2, 0) for picture in once] for once in planes]


# --- the browser -----------------------------------------------------------------------------


class WebPage:
    """The page of ``teco emit web`` in Chromium, on WebAssembly; frames come by its own hook.

    A video element would convert their colours. ``threads`` frames are asked for at once.
    """

    name = "web"
    runtime = "onnxruntime"
    tolerance = 1
    scene_cuts = True
    slow = True

    def why_not(self) -> str | None:
        from browser import why_not

        return why_not()

    def play(self, play: Play) -> list[Pictures]:
        from browser import chromium
        from web_page import enlarge, open_page, serve, site_folder

        from teco.model.opening import open_model

        folder = site_folder(play.scratch / "page", [open_model(str(play.model))])
        frames = play.frames
        found: list[Pictures] = []
        with serve(folder) as server, chromium() as page:
            open_page(page, server)
            for _ in range(play.times):
                page.execute_async_script("teco.reset().then(() => arguments[0]())")
                pictures: Pictures = []
                for n in range(0, len(frames), play.threads):
                    shown = enlarge(page, *frames[n : n + play.threads])
                    several = shown if isinstance(shown, list) else [shown]
                    pictures += [x.picture for x in several]
                found.append(pictures)
        return found


EMBEDDINGS: tuple[Embedding, ...] = (
    InOrder(),
    OnDemand(),
    Vspipe(),
    LibTeco(),
    InFfmpeg(),
    InMpv(),
    InGStreamer(),
    Frei0rInGStreamer(),
    WebPage(),
)
