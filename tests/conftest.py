"""How tests run, and what several files share: clips, a fake model, a tiny real one, `teco`."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

# --- how tests run ---------------------------------------------------------------------------

# Before torch is imported. Networks this small are not faster on several threads, which spend most
# of their time spinning while they wait for each other: six times as much in some files.
os.environ.setdefault("OMP_NUM_THREADS", "1")

_CACHES = pytest.StashKey[tuple[dict[str, str], dict[str, str]]]()
"""Variables that say where caches are: for the tests, and as they were outside."""


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """What ``-n auto`` means: a process per core, four at most; one where only files are named."""
    if all(Path(name.partition("::")[0]).is_file() for name in config.args):
        return 0
    return min(4, len(os.sched_getaffinity(0)))


def pytest_configure(config: pytest.Config) -> None:
    """Give the tests empty caches, so that none passes because of what lies in somebody's own.

    pip's cache alone stays: it changes how long an installation takes, not what comes of it.
    """
    if config.getoption("numprocesses", None):
        return  # the process that hands tests to others, which come here too
    folder = Path(tempfile.mkdtemp(prefix="teco-tests-"))
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    names = {"TECO_CACHE": "teco", "XDG_CACHE_HOME": "xdg", "TORCH_HOME": "torch"}
    inside = {name: str(folder / place) for name, place in names.items()}
    outside = {name: os.environ[name] for name in names if name in os.environ}
    of_all = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault("PIP_CACHE_DIR", str(of_all / "pip"))
    os.environ.update(inside)
    config.stash[_CACHES] = inside, outside


def pytest_collection_finish() -> None:
    """Leave torch and the tests out of garbage collections: 0.4 s for each that a test asks for."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let tests with the mark ``fetched`` see the caches of outside, and no other."""
    inside, outside = item.config.stash[_CACHES]
    for name in inside:
        os.environ.pop(name, None)
    os.environ.update(inside if item.get_closest_marker("fetched") is None else outside)


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """Put back what DataLoader's workers and the PyTorch runtime change for good.

    The handler of SIGCHLD is not meant for the child processes of later tests; of threads the
    variable above says why there is one.
    """
    before = signal.getsignal(signal.SIGCHLD)
    yield
    if signal.getsignal(signal.SIGCHLD) is not before:
        signal.signal(signal.SIGCHLD, before)
        handling = sys.modules.get("torch.utils.data._utils.signal_handling")
        if handling is not None:
            handling._SIGCHLD_handler_set = False  # type: ignore[attr-defined]
    if "torch" in sys.modules and sys.modules["torch"].get_num_threads() != 1:
        sys.modules["torch"].set_num_threads(1)


# --- pictures and clips ----------------------------------------------------------------------


def moving_texture(
    frames: int, width: int = 32, height: int = 24, *, seed: int = 0, step: int = 1
) -> list[np.ndarray]:
    """A window that slides over one scene: every frame differs, and none is a cut."""
    rng = np.random.default_rng(seed)
    room = step * frames
    coarse = rng.uniform(0, 255, ((height + room) // 4 + 2, (width + room) // 4 + 2, 3))
    scene = cv2.resize(coarse.astype(np.float32), None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    scene = np.clip(scene, 0, 255).astype(np.uint8)
    moments = [n * step for n in range(frames)]
    return [np.ascontiguousarray(scene[t : t + height, t : t + width]) for t in moments]


def write_clip(
    path: Path,
    width: int = 32,
    height: int = 24,
    frames: int = 8,
    *,
    pixels: Sequence[np.ndarray] | None = None,
    pts: Sequence[int] | None = None,
    time_base: Fraction = Fraction(1, 25),
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    crf: str = "12",
    audio: bool = False,
    picture: bool = True,
    faststart: bool = False,
) -> Path:
    """A video file.

    Args:
        path: its name; the suffix decides the container.
        width, height, frames: of a moving texture, unless pixels are given.
        pixels: (h, w, 3) uint8 RGB pictures of one size.
        pts: when each is shown, in units of time_base; 0, 1, 2, ... if not given.
        audio: add a tone of the same length.
        picture: False leaves the picture stream out.
        faststart: put an MP4's index first, so that what is left of a cut file can be read.
    """
    pixels = moving_texture(frames, width, height) if pixels is None else pixels
    frames = len(pixels)
    moments = range(len(pixels)) if pts is None else pts
    options = {"movflags": "+faststart"} if faststart else {}
    with av.open(str(path), "w", container_options=options) as out:
        video = voice = None
        if picture:
            video = out.add_stream(codec, rate=25, options={"crf": crf, "preset": "ultrafast"})
            video.height, video.width = pixels[0].shape[:2] if frames else (height, width)
            video.pix_fmt = pix_fmt
            video.codec_context.time_base = video.time_base = time_base
        if audio:
            voice = out.add_stream("aac", rate=48_000, layout="mono")
        out.start_encoding()
        if voice is not None:
            tone = (0.2 * np.sin(np.arange(48_000 * frames // 25) / 20)).astype(np.float32)[None]
            sound = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
            sound.sample_rate, sound.pts = 48_000, 0
            out.mux(voice.encode(sound))
            out.mux(voice.encode(None))
        if video is not None:
            for rgb, moment in zip(pixels, moments, strict=True):
                frame = av.VideoFrame.from_ndarray(rgb, "rgb24").reformat(format=pix_fmt)
                frame.pts, frame.time_base = moment, time_base
                out.mux(video.encode(frame))
            out.mux(video.encode(None))
    return path


def write_pictures(folder: Path, pixels: Sequence[np.ndarray]) -> Path:
    """A folder of PNGs 0000.png, 0001.png, ... of (h, w, 3) uint8 RGB pictures."""
    folder.mkdir()
    for n, rgb in enumerate(pixels):
        cv2.imwrite(str(folder / f"{n:04d}.png"), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    return folder


def read_pictures(folder: Path) -> list[np.ndarray]:
    """The RGB pictures of a folder of PNGs, by name."""
    files = sorted(folder.glob("*.png"))
    return [cv2.cvtColor(cv2.imread(str(f)), cv2.COLOR_BGR2RGB) for f in files]


@pytest.fixture(scope="session")
def texture() -> Callable[..., list[np.ndarray]]:
    return moving_texture


@pytest.fixture(scope="session")
def make_clip() -> Callable[..., Path]:
    return write_clip


@pytest.fixture(scope="session")
def make_pictures() -> Callable[..., Path]:
    return write_pictures


@pytest.fixture(scope="session")
def load_pictures() -> Callable[[Path], list[np.ndarray]]:
    return read_pictures


@pytest.fixture(scope="session")
def sliding_clip(tmp_path_factory, texture) -> tuple[Path, list[np.ndarray]]:
    """Four seconds without a cut, 48x32, 25 frames a second: a lossless clip; its pictures."""
    from embeddings import write_lossless

    pictures = texture(100, 48, 32)
    return write_lossless(tmp_path_factory.mktemp("sliding") / "sliding.mkv", pictures), pictures


# --- models ----------------------------------------------------------------------------------


@dataclass
class FakeSession:
    """Enlarges by repeating pixels, and remembers what it was asked.

    The state it hands out is the number of the call, so a test can see which one came back.

    Attributes:
        calls: (frame, state) of each step; the frame is a copy.
        fail_at: raise RuntimeError at this call.
        closed: whether close was called.
    """

    fail_at: int | None = None
    runtime: str = "fake"
    details: str = "nothing"
    calls: list[tuple[np.ndarray, int | None]] = field(default_factory=list)
    closed: bool = False

    def step(self, lr: np.ndarray, state: int | None) -> tuple[np.ndarray, int]:
        assert lr.dtype == np.float32
        assert lr.shape[:2] == (1, 3)
        if len(self.calls) == self.fail_at:
            raise RuntimeError("the fake model was told to fail")
        self.calls.append((lr.copy(), state))
        return lr.repeat(4, axis=2).repeat(4, axis=3), len(self.calls) - 1

    def close(self) -> None:
        self.closed = True

    @property
    def states(self) -> list[int | None]:
        return [state for _, state in self.calls]


@pytest.fixture(scope="session")
def fake_session() -> type[FakeSession]:
    return FakeSession


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory) -> Path:
    """A random network of the smallest useful kind, as .safetensors."""
    pytest.importorskip("torch")
    from teco.training.init import initialise
    from teco_models.arch.generator import Generator
    from teco_models.checkpoint import save_weights
    from teco_models.variant import Variant

    generator = Generator(Variant(blocks=1, channels=16, flow_channels=8, tail="shuffle"))
    initialise(generator)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(path, generator)
    return path


@pytest.fixture(scope="session")
def tiny_onnx(tmp_path_factory, tiny_weights) -> Path:
    """The same network exported; its manifest lies beside it. Copy both to change them."""
    pytest.importorskip("onnxscript")
    from teco.exporting.onnx import ExportOptions, export_onnx
    from teco_models.checkpoint import load_weights

    folder = tmp_path_factory.mktemp("onnx")
    return export_onnx(load_weights(tiny_weights), folder, ExportOptions(name="tiny"))


@pytest.fixture(scope="session")
def tiny_x2(tmp_path_factory) -> Path:
    """A random network of scale 2, exported."""
    pytest.importorskip("onnxscript")
    import torch

    from teco.exporting.onnx import ExportOptions, export_onnx
    from teco_models.arch.computed_alignment import AlignedGenerator
    from teco_models.checkpoint import Weights
    from teco_models.variant import Variant

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = AlignedGenerator(Variant.aligned(blocks=1, channels=8, latent=4, scale=2))
    weights = Weights(generator.variant, dict(generator.state_dict()))
    options = ExportOptions(name="tiny-x2")
    return export_onnx(weights, tmp_path_factory.mktemp("onnx-x2"), options)


@pytest.fixture(scope="session")
def tiny_web(tmp_path_factory) -> Path:
    """A random network with all that a graph can have, in its form for browsers, as "tiny"."""
    pytest.importorskip("onnxscript")
    from teco.exporting.onnx import WEB, ExportOptions, export_onnx
    from teco.training.init import initialise
    from teco_models.arch.generator import Generator
    from teco_models.checkpoint import infer
    from teco_models.variant import Variant

    variant = Variant(
        blocks=1, channels=16, flow_channels=8, back_projection=True, lucas_kanade=True
    )
    generator = Generator(variant)
    initialise(generator, seed=3)
    weights = infer(generator.eval().state_dict(), source="test")
    folder = tmp_path_factory.mktemp("web")
    return export_onnx(weights, folder, ExportOptions(name="tiny", target=WEB))


@pytest.fixture
def fake_ort_web(tmp_path_factory, monkeypatch) -> Path:
    """A folder that looks like onnxruntime-web's, named by the environment: nothing is fetched."""
    from teco.core.npm_package import ONNXRUNTIME_WEB
    from teco.players.web.onnxruntime_web import FILES

    package = tmp_path_factory.mktemp("onnxruntime-web")
    (package / "dist").mkdir()
    for name in FILES:
        (package / "dist" / name).write_bytes(name.encode())
    (package / "package.json").write_text('{"name": "onnxruntime-web", "version": "9.9.9"}')
    monkeypatch.setenv(ONNXRUNTIME_WEB.environment, str(package))
    return package


# --- the command -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """What a `teco` command said and how it ended."""

    code: int
    stdout: bytes
    stderr: str

    def says(self, *words: str) -> None:
        """It went well, said these words, and let nothing of a library's through."""
        assert self.code == 0, self.stderr
        assert "Traceback" not in self.stderr
        assert "arning:" not in self.stderr.replace("\nwarning:", "\n")
        for word in words:
            assert word in self.stderr, self.stderr

    def refuses(self, code: int, *words: str, after: Sequence[str] = ()) -> None:
        """It ended with this code and one sentence that holds these words, and nothing more.

        Args:
            code: 1 it failed, 2 wrong usage, 3 this machine cannot.
            words: what must be in the sentence or its hint.
            after: beginnings of lines that may come before.
        """
        assert self.code == code, (self.code, self.stderr)
        lines = [line for line in self.stderr.splitlines() if not line.startswith(tuple(after))]
        if lines and lines[0].startswith("Usage: "):
            assert code == 2
            assert sum(line.startswith("Error: ") for line in lines) == 1, self.stderr
            assert len(lines) <= 4, self.stderr
        else:
            assert lines, "nothing was said"
            assert lines[0].startswith("teco: "), self.stderr
            assert all(line.startswith("  hint: ") for line in lines[1:]), self.stderr
            assert len(lines) <= 2, self.stderr
        assert "internal error" not in self.stderr
        for noise in ("Traceback", " at 0x", "[E:onnx", "[W:onnx", "<class", "object at"):
            assert noise not in self.stderr, self.stderr
        for word in words:
            assert word in self.stderr, (word, self.stderr)


@pytest.fixture(scope="session")
def teco_environment(tmp_path_factory) -> dict[str, str]:
    """The environment of `teco` processes: an own cache, warnings shown, one thread."""
    return {
        **os.environ,
        "TECO_CACHE": str(tmp_path_factory.mktemp("cache")),
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "default",
    }


@pytest.fixture(scope="session")
def run_teco(teco_environment) -> Callable[..., Run]:
    """`teco ARGS...` in a process of its own; ``stdin`` and ``stdout`` as subprocess takes them."""

    def run(*args: object, stdin: bytes = b"", stdout: int = subprocess.PIPE, **options) -> Run:
        command = [sys.executable, "-m", "teco", *map(str, args)]
        done = subprocess.run(
            command, input=stdin, stdout=stdout, stderr=subprocess.PIPE, timeout=120,
            check=False, env=teco_environment, **options,
        )  # fmt: skip
        return Run(done.returncode, done.stdout or b"", done.stderr.decode())

    return run


@pytest.fixture
def teco(monkeypatch, capfd) -> Callable[..., Run]:
    """`teco ARGS...` in this process: a second or two faster. Output is caught by descriptor."""
    from teco.cli import main

    def call(*args: object) -> Run:
        monkeypatch.setattr(sys, "argv", ["teco", *map(str, args)])
        handler = signal.getsignal(signal.SIGTERM)
        capfd.readouterr()
        try:
            with pytest.raises(SystemExit) as end:
                main()
        finally:
            signal.signal(signal.SIGTERM, handler)
        out, err = capfd.readouterr()
        return Run(int(end.value.code or 0), out.encode(), err)

    return call


@pytest.fixture
def untouched() -> Callable[[Path], contextlib.AbstractContextManager[None]]:
    """Assert that a folder holds the same files with the same bytes, hidden ones included."""

    def contents(folder: Path) -> dict[str, bytes | None]:
        names = sorted(folder.rglob("*"))
        return {str(n.relative_to(folder)): n.read_bytes() if n.is_file() else None for n in names}

    @contextlib.contextmanager
    def check(folder: Path) -> Iterator[None]:
        before = contents(folder)
        yield
        after = contents(folder)
        assert list(after) == list(before)
        assert after == before

    return check
