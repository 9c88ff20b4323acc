"""Sequential play in every embedding equals ``teco upscale``, frame for frame."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from embeddings import EMBEDDINGS, Embedding, Pictures, Play, write_lossless

pytestmark = pytest.mark.fetched  # the page for browsers

WIDTH, HEIGHT = 48, 32
TIMES = 10


@pytest.fixture(scope="session")
def frames(texture) -> Pictures:
    """Two shots, with frames that are held: what a player can get wrong besides order."""
    first, second = texture(9, WIDTH, HEIGHT), texture(6, WIDTH, HEIGHT, seed=9)
    return [*first[:4], first[3], first[3], *first[4:], *second[:2], second[1], *second[2:]]


@pytest.fixture(scope="session")
def sources(tmp_path_factory, frames, make_pictures) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("embeddings")
    clip = write_lossless(folder / "clip.mkv", frames)
    return clip, make_pictures(folder / "frames", frames)


@pytest.fixture(scope="session")
def offline(
    tmp_path_factory, sources, run_teco, load_pictures
) -> Callable[[Path, str, bool], Pictures]:
    """What ``teco upscale`` makes of the frames, once for each model, runtime and use of cuts."""
    known: dict[tuple[Path, str, bool], Pictures] = {}

    def of(model: Path, runtime: str, scene_cuts: bool) -> Pictures:
        key = model, runtime, scene_cuts
        if key not in known:
            out = tmp_path_factory.mktemp("offline") / "out"
            cuts = "--scene-cuts" if scene_cuts else "--no-scene-cuts"
            run_teco(
                "upscale", sources[1], out, "--model", model, "--runtime", runtime,
                "--threads", "1", cuts,
            ).says("2 scenes" if scene_cuts else "1 scene")  # fmt: skip
            known[key] = load_pictures(out)
        return known[key]

    return of


def hold(embedding: Embedding, play: Play, expected: Pictures) -> None:
    """Every picture of every time is the offline one, within the embedding's tolerance."""
    found = embedding.play(play)
    assert len(found) == play.times
    for pictures in found:
        assert len(pictures) == len(expected)
        worst = [
            int(np.abs(a.astype(np.int16) - b).max())
            for a, b in zip(pictures, expected, strict=True)
        ]
        assert max(worst) <= embedding.tolerance, worst


def _or_skip(embedding: Embedding) -> None:
    if (reason := embedding.why_not()) is not None:
        pytest.skip(reason)


@pytest.fixture(params=["tiny_onnx", "tiny_x2"])
def each_scale(request) -> Path:
    """A network of scale 4, and one of scale 2."""
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("embedding", [e for e in EMBEDDINGS if not e.slow], ids=lambda e: e.name)
def test_sequential_play_is_upscale(
    embedding: Embedding, threads: int, tmp_path: Path, sources, each_scale, offline
) -> None:
    _or_skip(embedding)
    play = Play(clip=sources[0], folder=sources[1], model=each_scale, threads=threads, times=1,
                scratch=tmp_path)  # fmt: skip
    hold(embedding, play, offline(each_scale, embedding.runtime, embedding.scene_cuts))


@pytest.mark.slow
@pytest.mark.parametrize("embedding", [e for e in EMBEDDINGS if e.slow], ids=lambda e: e.name)
def test_scale_2_is_played_too(
    embedding: Embedding, tmp_path: Path, sources, tiny_x2, offline
) -> None:
    _or_skip(embedding)
    play = Play(clip=sources[0], folder=sources[1], model=tiny_x2, threads=1, times=1,
                scratch=tmp_path)  # fmt: skip
    hold(embedding, play, offline(tiny_x2, embedding.runtime, embedding.scene_cuts))


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("embedding", EMBEDDINGS, ids=lambda e: e.name)
def test_sequential_play_is_upscale_ten_times_over(
    embedding: Embedding, threads: int, tmp_path: Path, sources, tiny_onnx, offline
) -> None:
    _or_skip(embedding)
    play = Play(clip=sources[0], folder=sources[1], model=tiny_onnx, threads=threads, times=TIMES,
                scratch=tmp_path)  # fmt: skip
    hold(embedding, play, offline(tiny_onnx, embedding.runtime, embedding.scene_cuts))
