"""Training of computed alignment: single frames first; ordinary clips from a pool, BD as drawn."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from paths import ROOT

torch = pytest.importorskip("torch")

from teco.core.errors import TecoError  # noqa: E402
from teco.training.data.pool import ClipPool, PoolOptions  # noqa: E402
from teco.training.data.sequences import shot_of  # noqa: E402
from teco.training.loop import PAST_GAIN, Trainer, check_stages  # noqa: E402
from teco.training.options import LoopOptions, TrainOptions  # noqa: E402
from teco.training.recipe import load_recipe  # noqa: E402
from teco.training.run_folder import WEIGHTS  # noqa: E402
from teco.training.validate import Validator  # noqa: E402
from teco_models.checkpoint import build_any, load_weights, save_weights  # noqa: E402
from teco_models.compress.grow import grow, halve_scale  # noqa: E402
from teco_models.compress.prune import prune_blocks  # noqa: E402

OPTIONS = TrainOptions(
    variant="teco-x4-b1-c8-l4-real", flow_iterations=0, single_iterations=4, iterations=4,
    single_batch=4, batch=2, frames=8, short_share=0.5, crop=64, warm_up=1, single_lr=2e-3, lr=1e-3,
)  # fmt: skip


def texture(seed: int, height: int = 500, width: int = 600) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photographs")
    for seed in (0, 1):
        cv2.imwrite(str(folder / f"{seed}.png"), texture(seed))
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def pool(photographs, tmp_path_factory) -> ClipPool:
    options = PoolOptions(clips=6, size=128, frames=10)
    made = ClipPool(options, photographs, [], tmp_path_factory.mktemp("pool"))
    made.fill(2)
    return made


def trained(out: Path, pool: ClipPool, options: TrainOptions = OPTIONS, **loop) -> Trainer:
    torch.set_num_threads(1)
    return Trainer(options, LoopOptions(out=out, workers=0, **loop), pool, None)


def test_stopping_and_resuming_is_exact(tmp_path, pool) -> None:
    whole = trained(tmp_path / "whole", pool)
    whole.run(lambda _: None)

    class Killed(Exception):
        pass

    for moment in (("single", 3), ("recurrent", 3)):
        out = tmp_path / moment[0]
        out.mkdir()

        def kill(done, moment=moment) -> None:
            if (done.stage, done.iteration) == moment:
                raise Killed

        with pytest.raises(Killed):
            trained(out, pool, checkpoint_every=2).run(kill)
        second = trained(out, pool, checkpoint_every=2)
        assert second.resume()
        second.run(lambda _: None)
        a, b = load_weights(tmp_path / "whole" / WEIGHTS), load_weights(out / WEIGHTS)
        assert a.variant.name == OPTIONS.variant
        assert all(torch.equal(a.tensors[k], b.tensors[k]) for k in a.tensors)


def test_it_learns(tmp_path) -> None:
    """What edges are, in seconds: better than it began, and than bicubic, on tiles that move."""
    tiles = np.random.default_rng(2).integers(0, 256, (30, 40, 1), np.uint8).repeat(3, 2)
    large = cv2.resize(tiles, (960, 720), interpolation=cv2.INTER_NEAREST)
    cv2.imwrite(str(tmp_path / "tiles.png"), large)
    options = PoolOptions(clips=8, size=160, frames=10)
    pool = ClipPool(options, [tmp_path / "tiles.png"], [], tmp_path)
    pool.fill(2)
    half = cv2.resize(large, (480, 360), interpolation=cv2.INTER_AREA)
    frames = np.stack([half[20 + t : 180 + t, 30 + 2 * t :][:, :224] for t in range(10)])
    judge = Validator(frames, degradation="real")
    (tmp_path / "run").mkdir()
    asked = replace(OPTIONS, single_iterations=250, iterations=40)
    trainer = trained(tmp_path / "run", pool, asked)
    before = judge(trainer.average)
    trainer.run(lambda _: None)
    after = judge(trainer.average)
    assert after.psnr > before.psnr + 0.3
    assert after.gain > 0.3
    assert after.mean_flow is None


def moving_tiles(count: int = 12) -> np.ndarray:
    """(count, 160, 224, 3) of tiles with sharp edges, which move."""
    tiles = np.random.default_rng(2).integers(0, 256, (30, 40, 1), np.uint8).repeat(3, 2)
    large = cv2.resize(tiles, (480, 360), interpolation=cv2.INTER_NEAREST)
    return np.stack([large[20 + t : 180 + t, 30 + 2 * t :][:, :224] for t in range(count)])


def test_bd_is_learned_with_computed_alignment(tmp_path) -> None:
    """From shots that are degraded as they are drawn; then a cut one learns from its teacher."""
    asked = replace(
        OPTIONS, variant="teco-x4-b2-c8-l4-bd", single_iterations=250, iterations=40,
        still_share=0.0, max_stride=1,
    )  # fmt: skip
    frames = moving_tiles()
    judge = Validator(frames)
    out = tmp_path / "teacher"
    out.mkdir()
    torch.set_num_threads(1)
    shots = [shot_of("tiles", frames)]
    teacher = Trainer(asked, LoopOptions(out=out, workers=0), shots, None)
    before = judge(teacher.average)
    teacher.run(lambda _: None)
    after = judge(teacher.average)
    assert after.psnr > before.psnr + 0.3
    assert after.gain > 0.3
    small = prune_blocks(load_weights(out / WEIGHTS), [0])
    save_weights(tmp_path / "cut.safetensors", build_any(small.weights))
    cut = replace(
        asked, variant=small.weights.variant.name, single_iterations=0, iterations=5,
        distil_output=1.0, distil_feature=1.0,
    )  # fmt: skip
    folder = tmp_path / "cut"
    folder.mkdir()
    files = LoopOptions(
        out=folder, workers=0, init=tmp_path / "cut.safetensors", teacher=out / WEIGHTS
    )
    Trainer(cut, files, shots, None).run(lambda _: None)
    assert load_weights(folder / WEIGHTS).variant.name == "teco-x4-b1-c8-l4-bd"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"variant": "teco-x4-b1-c8-l4-bd", "flow_weight": 0.5}, "learns no flow"),
        ({"variant": "teco-x4-b1-c8-l4-bd", "flow_iterations": 2}, "no flow net"),
        ({"still_share": 0.1}, "a pool of clips"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, said) -> None:
    with pytest.raises(TecoError, match=said):
        check_stages(replace(OPTIONS, **options))


def test_a_teacher_of_another_scale_is_refused(tmp_path, pool) -> None:
    first = tmp_path / "x4"
    trained(first, pool, replace(OPTIONS, iterations=1, single_iterations=1)).run(lambda _: None)
    asked = replace(OPTIONS, variant="teco-x2-b1-c8-l4-real", distil_output=1.0)
    with pytest.raises(TecoError, match="enlarges 4 times, teco-x2-b1-c8-l4-real 2 times"):
        trained(tmp_path / "x2", pool, asked, teacher=first / WEIGHTS)


def test_scale_2_is_trained_from_scale_4(tmp_path, photographs, pool) -> None:
    """All stages, from weights of scale 4, and judged at its own scale."""
    first = tmp_path / "x4"
    trained(first, pool).run(lambda _: None)
    options = PoolOptions(clips=4, size=128, frames=10, scale=2)
    data = ClipPool(options, photographs, [], tmp_path / "pool")
    asked = replace(
        OPTIONS, variant="teco-x2-b1-c8-l4-real", single_iterations=2, iterations=2,
        gan_iterations=2, perceptual_weight=0.0, pattern_weight=1.0,
    )  # fmt: skip
    (tmp_path / "x2").mkdir()
    losses: list[dict[str, float]] = []
    trainer = trained(tmp_path / "x2", data, asked, init=first / WEIGHTS)
    start = halve_scale(load_weights(first / WEIGHTS))
    assert torch.equal(trainer.generator.state_dict()["base"], start.tensors["base"])
    trainer.run(lambda done: losses.append(done.losses))
    assert len(losses) == 6
    assert {"gan", "pattern"} <= set(losses[-1])
    assert all(np.isfinite(v) for x in losses for v in x.values())
    assert load_weights(tmp_path / "x2" / WEIGHTS).variant.scale == 2
    frames = np.stack([texture(5, 144, 176)] * 4)
    judge = Validator(frames, degradation="real", scale=2)
    assert judge.lr[0].shape == (72, 88, 3)
    assert np.isfinite(judge(trainer.average).psnr)


def test_a_network_of_single_frames_is_judged_without_a_past(tmp_path, pool) -> None:
    """What it makes of a past is chance; the validation of that stage says nothing of it."""
    trainer = trained(tmp_path, pool)
    y, x = np.mgrid[:144, :144]
    frames = np.stack([
        (128 + 100 * np.sin((x[..., None] + 3 * t + y[..., None]) / [5, 6, 7])).astype(np.uint8)
        for t in range(6)
    ])  # fmt: skip
    judge = Validator(frames, degradation="real")
    alone = judge(trainer.average, recurrent=False)
    assert alone.temporal_gain == 0
    whole = judge(trainer.average)
    assert whole.psnr == pytest.approx(alone.psnr + whole.temporal_gain, abs=1e-9)
    assert whole.temporal_gain != 0


def test_the_single_stage_learns_nothing_of_a_past(tmp_path, pool) -> None:
    """Then what reads the past is scaled down, or chance would have its say."""
    trainer = trained(tmp_path, pool)
    start = {k: v.clone() for k, v in trainer.generator.state_dict().items()}
    assert trainer.run_stage(lambda _: None)
    assert trainer.stage == "recurrent"
    now = trainer.generator.state_dict()
    assert torch.equal(now["spread"], start["spread"])
    assert torch.allclose(now["head.weight"][:, 1:], PAST_GAIN * start["head.weight"][:, 1:])
    assert not torch.equal(now["head.weight"][:, :1], start["head.weight"][:, :1])


def test_what_is_known_of_a_past_is_kept(tmp_path, pool) -> None:
    """Weights to start from have learned to read it."""
    trained(tmp_path, pool).run(lambda _: None)
    again = trained(tmp_path / "on", pool, init=tmp_path / WEIGHTS)
    before = again.generator.head.weight[:, 1:].clone()
    assert again.run_stage(lambda _: None)
    assert torch.allclose(again.generator.head.weight[:, 1:], before)


def test_a_rate_that_is_too_high_is_named(tmp_path, pool) -> None:
    (tmp_path / "run").mkdir()
    run = trained(tmp_path / "run", pool, replace(OPTIONS, single_lr=1e12, amp="off"))
    with pytest.raises(TecoError, match="stage single") as caught:
        run.run(lambda _: None)
    assert "--single-lr 0.003" in caught.value.hint


def test_all_stages_with_a_teacher(tmp_path, pool) -> None:
    teacher = tmp_path / "teacher"
    trained(teacher, pool, replace(OPTIONS, single_iterations=1, iterations=1)).run(lambda _: None)
    options = replace(
        OPTIONS, single_iterations=1, iterations=1, gan_iterations=2, perceptual_weight=0.0,
        distil_output=1.0, distil_feature=0.1, crop=64,
    )  # fmt: skip
    seen: list[dict[str, float]] = []
    run = trained(tmp_path / "run", pool, options, teacher=teacher / WEIGHTS)
    run.run(lambda done: seen.append(done.losses))
    assert [set(x) & {"pixel", "distil_output", "distil_feature", "gan"} for x in seen] == [
        {"pixel", "distil_output", "distil_feature"},
        {"pixel", "distil_output", "distil_feature"},
        {"pixel", "distil_output", "distil_feature", "gan"},
        {"pixel", "distil_output", "distil_feature", "gan"},
    ]
    assert all(np.isfinite(v) for x in seen for v in x.values())


def test_a_grown_network_begins_where_the_small_one_ended(tmp_path, pool) -> None:
    run = trained(tmp_path, pool)
    run.run(lambda _: None)
    small = load_weights(tmp_path / WEIGHTS)
    deep = replace(small.variant, blocks=3)
    grown = grow(small, deep)
    options = replace(OPTIONS, variant=deep.name, single_iterations=0)
    trainer = trained(tmp_path / "deep", pool, options, init=tmp_path / WEIGHTS)
    assert set(grown.tensors) == set(trainer.average.state_dict())
    lr = torch.rand(1, 2, 3, 24, 32)
    a, b = (t.average.sequence(lr)[0] for t in (run, trainer))
    assert a.shape == (1, 2, 3, 96, 128)
    assert torch.allclose(a, b, atol=1e-5)


def test_what_is_refused(tmp_path, pool, teco) -> None:
    with pytest.raises(TecoError, match="no flow net"):
        trained(tmp_path, pool, replace(OPTIONS, flow_iterations=1))
    with pytest.raises(TecoError, match="--still-share, --max-stride means nothing"):
        trained(tmp_path, pool, replace(OPTIONS, still_share=0.1, max_stride=1))
    with pytest.raises(TecoError, match="short sequences have 1 of --frames 7"):
        replace(OPTIONS, frames=7)
    with pytest.raises(TecoError, match="after --burn-in 3"):
        replace(OPTIONS, frames=16, burn_in=3)
    shots = [shot_of("a", np.stack([texture(0)] * 4))]
    plain = replace(OPTIONS, variant="teco-x4-b1-c8-f0-shuffle", short_share=0.0)
    with pytest.raises(TecoError, match="not trained on single frames"):
        Trainer(plain, LoopOptions(out=tmp_path), shots, None)
    other = replace(plain, single_iterations=0, frames=8, short_share=0.5)
    with pytest.raises(TecoError, match="sequences of one length"):
        Trainer(other, LoopOptions(out=tmp_path), shots, None)
    folder = tmp_path / "clips"
    folder.mkdir()
    shutil.copy(ROOT / "examples" / "city.mp4", folder)
    teco("train", "--config", "real", "--data", folder, "--out", tmp_path / "run").refuses(
        2, "no clip has 28 frames", "--photos", after=("decoding", "note:")
    )


def test_weights_are_blended(tmp_path, teco) -> None:
    mean = tmp_path / "mean.safetensors"
    done = teco("blend", "real-cpu", "real-cpu", "--shares", "1,1", "-o", mean)
    assert done.code == 0, done.stderr
    assert load_weights(mean).variant.name == "teco-x4-b3-c32-l14-real"


def test_the_recipe_by_the_command(tmp_path, teco) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    cv2.imwrite(str(photos / "a.png"), texture(0, 820, 900))
    out = tmp_path / "run"
    done = teco(
        "train", "--config", "real", "--photos", photos, "--pool-clips", 2, "--out", out,
        "--workers", 0, "--single-iterations", 1, "--iterations", 1, "--frames", 8,
        "--single-batch", 2, "--batch", 1, "--crop", 64, "--threads", 1,
    )  # fmt: skip
    assert done.code == 0, done.stderr
    found = load_weights(out / WEIGHTS)
    assert found.variant.name == load_recipe("real")["variant"]
    assert (out / "weights-single.safetensors").exists()
    assert len(list((out / "frames").glob("degraded-*/*.npy"))) == 4


@pytest.mark.slow
def test_two_processes_train_what_one_trains(tmp_path) -> None:
    """Single frames and short sequences leave weights without a gradient, which must be no end."""
    photos = tmp_path / "photos"
    photos.mkdir()
    cv2.imwrite(str(photos / "a.png"), texture(0, 820, 900))
    options = [
        "train", "--variant", OPTIONS.variant, "--photos", photos, "--pool-clips", 2,
        "--workers", 0, "--single-iterations", 2, "--iterations", 4, "--frames", 8,
        "--single-batch", 4, "--batch", 2, "--short-share", 0.5, "--crop", 64, "--threads", 1,
        "--amp", "off",
    ]  # fmt: skip
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    here = Path(sys.executable)
    starts = {
        "one": [here, "-m", "teco"],
        "two": [
            here.with_name("torchrun"), "--nproc-per-node", 2, "--master-port", port, "-m", "teco",
        ],
    }  # fmt: skip
    found = {}
    for name, start in starts.items():
        done = subprocess.run(
            [str(x) for x in (*start, *options, "--out", tmp_path / name)],
            capture_output=True, text=True, check=False, timeout=240,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found[name] = load_weights(tmp_path / name / WEIGHTS).tensors
    for key, value in found["one"].items():
        assert torch.allclose(value, found["two"][key], atol=2e-3), key
