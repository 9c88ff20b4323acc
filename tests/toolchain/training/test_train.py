"""Training: data, losses, start, and resuming after a kill."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from training_runs import TINY, assert_went_alike, footage, kill_in, untrained

from teco.cli.research.train import run_folder
from teco.core.errors import TecoError
from teco.training.data.clip_changes import what_differs
from teco.training.data.prepare import prepare, read_clip_options
from teco.training.data.sequences import (
    SampleOptions,
    SequenceDataset,
    degrade_crop,
    measured_flow,
    shot_of,
)
from teco.training.init import block_matching_start, initialise
from teco.training.loop import DivergedError, Trainer
from teco.training.losses.terms import charbonnier, flow_loss, warp_loss
from teco.training.options import LoopOptions, TrainOptions
from teco.training.run_folder import CHECKPOINT, DISCRIMINATOR, LOG, WEIGHTS
from teco.training.stages import Batch
from teco.training.validate import Validator
from teco_calibration.degrade import degrade_bd
from teco_models.arch.generator import Generator
from teco_models.checkpoint import load_discriminator, load_weights, save_weights
from teco_models.variant import Variant


@pytest.fixture(scope="module")
def shots():
    return [shot_of("a", footage(seed=1)), shot_of("b", footage(frames=3, seed=2))]


# --- data ------------------------------------------------------------------------------------


def test_samples_depend_on_seed_and_index_alone(shots) -> None:
    options = SampleOptions(crop=64, frames=4, batch=3, seed=5)
    first, second = (SequenceDataset(shots, options, 10) for _ in range(2))
    second[0]
    second[7]
    for a, b in ((first[3], second[3]),):
        assert torch.equal(a.hr, b.hr)
        assert torch.equal(a.flow.nan_to_num(-99), b.flow.nan_to_num(-99))
    other = SequenceDataset(shots, SampleOptions(crop=64, frames=4, batch=3, seed=6), 10)[3]
    assert not torch.equal(first[3].hr, other.hr)
    assert not torch.equal(first[3].hr, first[4].hr)
    assert first[3].hr.shape == (3, 4, 3, 72, 72)
    assert first[3].flow.shape == (3, 3, 2, 16, 16)


def test_moved_stills_have_the_flow_they_claim(shots) -> None:
    """Warping the previous frame by the given flow gives the current one, wherever it can."""
    options = SampleOptions(crop=64, frames=3, batch=16, still_share=1.0, max_still_speed=4.0)
    sample = SequenceDataset(shots, options, 1)[0]
    assert sample.still.all()
    hr = sample.hr.float()
    moved = 0
    for b in range(16):
        for t in range(2):
            dx, dy = (4 * sample.flow[b, t, :, 0, 0]).round().int().tolist()
            moved += bool(dx or dy)
            assert_moved(hr[b, t + 1], hr[b, t], dx, dy)
    assert moved > 16


def assert_moved(now: torch.Tensor, before: torch.Tensor, dx: int, dy: int) -> None:
    """What (3, K, K) ``now`` shows at x lies in ``before`` at x + d."""
    size = now.shape[-1]
    ys = slice(max(0, -dy), size - max(0, dy))
    xs = slice(max(0, -dx), size - max(0, dx))
    source = before[:, ys.start + dy : ys.stop + dy, xs.start + dx : xs.stop + dx]
    assert torch.equal(now[:, ys, xs], source)


def test_a_real_sequence_is_turned_as_a_whole() -> None:
    """Every pixel says its frame, row and column, so a sample says where it was taken from."""
    places = np.stack(np.meshgrid(range(12), range(60), range(70), indexing="ij"), axis=-1)
    options = SampleOptions(crop=32, frames=4, batch=256, still_share=0, with_flow=False)
    data = SequenceDataset([shot_of("places", places.astype(np.uint8))], options, 1)
    sample = data[0]
    assert not sample.still.any()
    seen: set[tuple[int, ...]] = set()
    strides: set[int] = set()
    away = np.arange(40)
    for sequence in sample.hr.numpy().astype(int):
        moments = sequence[:, 0, 0, 0]
        assert (sequence[:, 0] == moments[:, None, None]).all()
        (step,) = set(np.diff(moments).tolist())  # one step, forwards or backwards
        assert (sequence[:, 1:] == sequence[0, 1:]).all()  # one place for all frames
        # How row and column of the source change along the rows and columns of the crop.
        corner, down, right = (sequence[0, 1:, y, x] for y, x in ((0, 0), (1, 0), (0, 1)))
        down, right = down - corner, right - corner
        assert sorted(map(abs, (*down, *right))) == [0, 0, 1, 1]
        assert abs(down[0] * right[1] - down[1] * right[0]) == 1
        rows = down[:, None, None] * away[:, None] + right[:, None, None] * away
        assert (sequence[0, 1:] == corner[:, None, None] + rows).all()
        seen.add((*down.tolist(), *right.tolist(), int(np.sign(step))))
        strides.add(abs(step))
    assert len(seen) == 16  # the square's eight symmetries, in either direction of time
    assert strides == {1, 2, 3}


def test_a_short_sequence_is_run_back_and_forth() -> None:
    moments = np.broadcast_to(np.arange(3, dtype=np.uint8)[:, None, None, None], (3, 40, 40, 3))
    options = SampleOptions(crop=32, frames=6, batch=16, still_share=0, with_flow=False)
    sample = SequenceDataset([shot_of("short", moments)], options, 1)[0]
    orders = {tuple(sequence[:, 0, 0, 0].tolist()) for sequence in sample.hr}
    assert orders == {(0, 1, 2, 1, 0, 1), (1, 0, 1, 2, 1, 0)}


def test_the_flow_of_a_real_sequence_turns_with_it() -> None:
    """The view moves by (2, 1); whichever way it is turned, the flow says how the pictures move."""
    options = SampleOptions(crop=64, frames=2, batch=48, still_share=0, max_stride=1)
    sample = SequenceDataset([shot_of("moving", footage(seed=1))], options, 1)[0]
    assert not sample.still.any()
    seen: set[tuple[int, int]] = set()
    for hr, flow in zip(sample.hr, sample.flow, strict=True):
        dx, dy = (round(float(v)) for v in 4 * flow[0].flatten(1).nanmedian(dim=1).values)
        assert_moved(hr[1], hr[0], dx, dy)
        seen.add((dx, dy))
    assert seen == {(x, y) for a, b in ((2, 1), (1, 2)) for x in (a, -a) for y in (b, -b)}


def test_measured_flow_finds_a_known_motion() -> None:
    frames = footage(frames=3)[:, :72, :72]
    flow = measured_flow(frames, 64)
    # The view moves by (2, 1) a frame, which is half and a quarter of an LR pixel.
    assert np.nanmedian(flow[:, 0]) == pytest.approx(0.5, abs=0.02)
    assert np.nanmedian(flow[:, 1]) == pytest.approx(0.25, abs=0.02)
    assert np.isnan(flow).mean() < 0.5
    # Frames that have nothing to do with each other: what it finds one way, it does not the other.
    noise = np.random.default_rng(0).integers(0, 256, frames.shape, dtype=np.uint8)
    assert np.isnan(measured_flow(noise, 64)).mean() > 2 * np.isnan(flow).mean()


def test_training_degradation_is_the_test_degradation_inside() -> None:
    picture = footage(frames=1)[0]
    crop = torch.from_numpy(picture[12 : 12 + 72, 20 : 20 + 72].copy()).permute(2, 0, 1)[None]
    lr = degrade_crop(crop.float())
    whole = degrade_bd(picture)  # rounds to 8 bits
    expected = torch.from_numpy(whole[4 : 4 + 16, 6 : 6 + 16].copy()).permute(2, 0, 1)[None]
    assert lr.shape == (1, 3, 16, 16)
    assert float((lr - expected).abs().max()) <= 0.5 + 1e-3


def test_no_sample_crosses_a_cut_or_leaves_a_short_shot(shots) -> None:
    options = SampleOptions(crop=64, frames=6, batch=8, still_share=0.0, with_flow=False)
    sample = SequenceDataset([shots[1]], options, 1)[0]  # three frames for sequences of six
    assert sample.hr.shape[1] == 6


def test_too_small_clips_are_an_error(shots) -> None:
    with pytest.raises(TecoError, match="136 pixels") as error:
        SequenceDataset(shots, SampleOptions(crop=128), 1)
    assert "--crop 96" in error.value.hint


def test_prepare_reads_options_cuts_and_caches(tmp_path: Path, make_clip, caplog) -> None:
    scenes = [footage(frames=6, seed=s) for s in (1, 2)]
    clip = make_clip(tmp_path / "a.mp4", pixels=list(np.concatenate(scenes)))
    (tmp_path / "clips.toml").write_text('[clips."a.mp4"]\nshrink = 1\nframes = [1, 11]\n')
    caplog.set_level(logging.INFO, "teco")
    shots = prepare([tmp_path], tmp_path / "cache")
    assert [len(s.frames) for s in shots] == [5, 5]
    assert shots[0].frames.shape[1:] == (96, 112, 3)
    assert len(caplog.messages) == 1
    prepare([tmp_path], tmp_path / "cache")
    assert len(caplog.messages) == 1
    clip.unlink()
    with pytest.raises(TecoError, match=r"a\.mp4"):
        read_clip_options(tmp_path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[clips", "cannot be read"),
        ("[other]", "clips"),
        ('[clips."a.mp4"]\nshrnk = 2', "shrnk"),
        ('[clips."a.mp4"]\nshrink = 0', "shrink 0"),
        ('[clips."a.mp4"]\nshrink = "x"', "shrink 'x'"),
        ('[clips."a.mp4"]\nframes = 5', "frames 5"),
        ('[clips."a.mp4"]\nframes = [9, 3]', "frames"),
        ("clips = 3", "cannot be read"),
    ],
)
def test_bad_clip_options(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "a.mp4").write_text("")
    (tmp_path / "clips.toml").write_text(text)
    with pytest.raises(TecoError, match=says):
        read_clip_options(tmp_path)


def test_bad_data_folders(tmp_path: Path) -> None:
    with pytest.raises(TecoError, match="missing"):
        prepare([tmp_path / "none"], tmp_path)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(TecoError, match=r"notes\.txt"):
        prepare([tmp_path], tmp_path)


# --- losses and start ------------------------------------------------------------------------


def test_losses_by_hand() -> None:
    x = torch.tensor([0.0, 3.0])
    assert float(charbonnier(x, torch.tensor([0.0, 1.0]))) == pytest.approx(
        (1e-3 + 2.0) / 2, rel=1e-5
    )
    flow = torch.zeros(1, 2, 1, 2)
    known = torch.tensor([[[[3.0, float("nan")]], [[4.0, float("nan")]]]])
    # One pixel misses by 5, the other is unknown and counts as none: sqrt(0 + 1e-4).
    assert float(flow_loss(flow, known)) == pytest.approx((5.0 + 0.01) / 2, rel=1e-4)


def test_warp_loss_is_least_at_the_true_motion() -> None:
    frames = torch.from_numpy(footage(frames=2, seed=4)).permute(0, 3, 1, 2).float() / 255
    true = torch.tensor([2.0, 1.0]).view(1, 2, 1, 1).expand(1, 2, 96, 112)
    losses = [float(warp_loss(frames[1:], frames[:1], true * s)) for s in (0.0, 0.5, 1.0, 1.5)]
    assert losses.index(min(losses)) == 2


def test_flow_gradients_ignore_unknown_motion() -> None:
    flow = torch.zeros(1, 2, 2, 2, requires_grad=True)
    known = torch.full((1, 2, 2, 2), float("nan"))
    known[:, :, 0, 0] = 1.0
    flow_loss(flow, known).backward()
    assert flow.grad is not None
    assert torch.isfinite(flow.grad).all()
    assert flow.grad[0, :, 0, 0].abs().min() > 0
    assert flow.grad[0, :, 1].abs().max() == 0


def test_block_matching_start_prefers_the_true_shift() -> None:
    """The channel of the true displacement answers least: what the layers above learn from."""
    generator = Generator(Variant(blocks=1))
    initialise(generator)
    block_matching_start(generator.fnet)
    texture = torch.from_numpy(footage(frames=1, seed=3)[0]).permute(2, 0, 1)[None].float() / 255
    texture = texture - texture.mean()
    now, before = texture[..., 8:40, 8:40], texture[..., 7:39, 9:41]
    # now(x) = before(x + d) for d = (-1, +1): column 0, row 2 of the window, so channel 2 * 3 + 0.
    with torch.inference_mode():
        answers = generator.fnet.encoder1(torch.cat((now, before), 1))[0, :9].mean(dim=(1, 2))
    assert int(answers.argmin()) == 6


def test_training_starts_at_nearly_the_upsampled_frame() -> None:
    generator = Generator(Variant(blocks=3))
    initialise(generator)
    lr = torch.rand(1, 3, 16, 16)
    with torch.inference_mode():
        out = generator.step(lr, *generator.initial_state(lr))
        up = generator.upsample_func(lr)
    assert float((out - up).square().mean()) < 0.25 * float((up - 0.5).square().mean())


# --- the loop --------------------------------------------------------------------------------


def small_options(**changes) -> TrainOptions:
    fields = {
        "variant": TINY, "iterations": 8, "flow_iterations": 4, "batch": 2, "flow_batch": 4,
        "frames": 3, "crop": 64, "warm_up": 2,
    }  # fmt: skip
    return TrainOptions(**{**fields, **changes})


def test_a_run_goes_through_its_stages_logs_and_saves(tmp_path: Path, shots) -> None:
    validator = Validator(footage(frames=6, height=144, width=144))
    loop = LoopOptions(out=tmp_path, workers=0, validate_every=4)
    torch.set_num_threads(1)
    trainer = Trainer(small_options(), loop, shots, validator)
    seen: list[tuple[str, int]] = []
    trainer.run(lambda p: seen.append((p.stage, p.iteration)))
    assert seen == [("flow", i) for i in range(1, 5)] + [("recurrent", i) for i in range(1, 9)]
    records = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    judged = [(r["stage"], r["iteration"]) for r in records if "validation" in r]
    assert judged == [("flow", 4), ("recurrent", 4), ("recurrent", 8)]
    expected = {"psnr", "psnr_bicubic", "gain", "temporal_gain", "mean_flow", "still_error"}
    assert set(records[-1]["validation"]) == expected
    assert load_weights(tmp_path / WEIGHTS).variant.name == TINY


@pytest.mark.slow
def test_both_stages_learn(tmp_path: Path, shots) -> None:
    """The loss of a batch that is not trained on falls, in either stage."""
    torch.set_num_threads(1)
    for stage, key, share in (("flow", "flow", 0.9), ("recurrent", "pixel", 0.97)):
        options = small_options(
            # Wide enough for the block-matching start, without which it would take thousands.
            variant="teco-x4-b1-c16-f20-shuffle",
            iterations=60,
            flow_iterations=150 if stage == "flow" else 0,
            flow_batch=16,
            amp="off",
            lr=1e-3,
        )
        trainer = Trainer(options, LoopOptions(out=tmp_path / stage, workers=0), shots, None)
        judge = SequenceDataset(
            shots,
            SampleOptions(crop=64, frames=2 if stage == "flow" else 3, batch=8, seed=77),
            1,
        )[0]
        with torch.no_grad():
            before = trainer._losses(Batch.of(judge, 64, trainer.device))[0][key].item()
        trainer.save()
        trainer._iterations(lambda _: None)
        with torch.no_grad():
            after = trainer._losses(Batch.of(judge, 64, trainer.device))[0][key].item()
        assert after < share * before, (stage, before, after)


def test_gradients_are_scaled_down_to_the_norm(tmp_path: Path, shots) -> None:
    """Those that a step leaves behind, against the gradient of the same batch by itself."""
    torch.set_num_threads(1)
    o = small_options(flow_iterations=0, iterations=1, amp="off")
    alone = Trainer(o, LoopOptions(out=tmp_path / "alone", workers=0), shots, None)
    with closing(alone._samples()) as samples:
        batch = Batch.of(next(samples), o.crop, alone.device)
    losses, _ = alone._losses(batch)
    sum(losses.values()).backward()
    raw = {name: p.grad for name, p in alone.generator.named_parameters()}
    norm = float(torch.cat([g.flatten() for g in raw.values()]).norm())
    for limit in (norm / 10, norm * 10):
        out = tmp_path / f"{limit:g}"
        trainer = Trainer(replace(o, clip_norm=limit), LoopOptions(out=out, workers=0), shots, None)
        trainer.run(lambda _: None)
        for name, p in trainer.generator.named_parameters():
            expected = raw[name] * min(1, limit / norm)
            assert torch.allclose(p.grad, expected, rtol=1e-3, atol=1e-5 * limit), name


def test_stopping_and_resuming_is_exact(tmp_path: Path, shots) -> None:
    """Bit for bit, across the change of stage, with checkpoints at other moments."""
    torch.set_num_threads(1)
    whole = Trainer(small_options(), LoopOptions(out=tmp_path / "whole", workers=0), shots, None)
    whole.run(lambda _: None)

    class Killed(Exception):
        pass

    for moment in (("flow", 3), ("recurrent", 5)):
        out = tmp_path / f"cut{moment[0]}"
        loop = LoopOptions(out=out, workers=0, checkpoint_every=2)
        out.mkdir()
        first = Trainer(small_options(), loop, shots, None)

        def kill(p, moment=moment) -> None:
            if (p.stage, p.iteration) == moment:
                raise Killed

        with pytest.raises(Killed):
            first.run(kill)
        second = Trainer(small_options(), loop, shots, None)
        assert second.resume()
        assert (second.stage, second.iteration) < moment or second.iteration < moment[1]
        second.run(lambda _: None)
        a, b = load_weights(tmp_path / "whole" / WEIGHTS), load_weights(out / WEIGHTS)
        assert all(torch.equal(a.tensors[k], b.tensors[k]) for k in a.tensors)


def test_resuming_with_other_options_names_them(tmp_path: Path, shots) -> None:
    loop = LoopOptions(out=tmp_path, workers=0)
    Trainer(small_options(), loop, shots, None).save()
    changed = Trainer(small_options(lr=1e-3, batch=3), loop, shots, None)
    with pytest.raises(TecoError, match=r"batch was 2, is now 3; lr was 0\.0004, is now 0\.001"):
        changed.resume()


def test_resuming_from_other_weights_is_refused(tmp_path: Path, shots) -> None:
    """Or the second of two trainings in one folder would end with the first one's weights."""
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for path, seed in ((first, 1), (second, 2)):
        generator = Generator(Variant.parse(small_options().variant))
        initialise(generator, seed)
        save_weights(path, generator)
    loop = LoopOptions(out=tmp_path / "run", workers=0, init=first)
    Trainer(small_options(), loop, shots, None).save()
    assert Trainer(small_options(), loop, shots, None).resume()
    with pytest.raises(TecoError, match=r"init was [0-9a-f]{12}, is now [0-9a-f]{12}$"):
        Trainer(small_options(), replace(loop, init=second), shots, None).resume()
    with pytest.raises(TecoError, match="is now None"):
        Trainer(small_options(), replace(loop, init=None), shots, None).resume()
    # A checkpoint from before this was recorded.
    state = torch.load(loop.out / CHECKPOINT, weights_only=True)
    del state["files"]["init"]
    torch.save(state, loop.out / CHECKPOINT)
    assert Trainer(small_options(), replace(loop, init=second), shots, None).resume()


def test_resuming_on_other_clips_names_them(tmp_path: Path, make_pictures) -> None:
    """As they are called in the cache, without digests and ranges."""
    for name, seed in (("walk", 1), ("city", 2), ("sea", 3)):
        make_pictures(tmp_path / name, list(footage(frames=3, seed=seed)))
    loop = LoopOptions(out=tmp_path / "run", workers=0)

    def shots_in(*names: str, options: str = "[clips]"):
        data = tmp_path / "data"
        shutil.rmtree(data, ignore_errors=True)
        for name in names:
            shutil.copytree(tmp_path / name, data / name)
        (data / "clips.toml").write_text(options)
        return prepare([data], tmp_path / "cache")

    Trainer(small_options(), loop, shots_in("walk", "city"), None).save()
    assert Trainer(small_options(), loop, shots_in("walk", "city"), None).resume()
    other = shots_in("walk", "sea", options="[clips.walk]\nframes = [0, 2]\n")
    with pytest.raises(
        TecoError, match=r"gone: data_city; added: data_sea; changed: data_walk$"
    ) as error:
        Trainer(small_options(), loop, other, None).resume()
    assert error.value.exit_code == 2
    assert "give the --data it was made with" in error.value.hint
    with pytest.raises(TecoError, match=r"the same clips in another order$"):
        Trainer(small_options(), loop, shots_in("walk", "city")[::-1], None).resume()
    # A checkpoint from before clips were recorded.
    state = torch.load(loop.out / CHECKPOINT, weights_only=True)
    del state["shots"]
    torch.save(state, loop.out / CHECKPOINT)
    with pytest.raises(TecoError, match=r"other clips or another clips\.toml$"):
        Trainer(small_options(), loop, other, None).resume()


def test_of_many_clips_the_first_are_named() -> None:
    before = [(f"{n:03d}-{n:016x}-256-4-{k}[0:100]", (100, 9, 9, 3), 1.0)
              for n in range(9) for k in range(2)]  # fmt: skip
    assert what_differs(before, before[:2]) == "gone: 001, 002, 003 and 5 more"
    assert what_differs(before[:2], before[:3]) == "added: 001"
    # One of its crops is another.
    torn = [*before[:-1], (before[-1][0], (99, 9, 9, 3), 1.0)]
    assert what_differs(before, torn) == "changed: 008"
    # A name may look like a digest or a range itself.
    odd = ("a[1]-b.mp4-0123456789abcdef[0:3]", (3, 9, 9, 3), 1.0)
    assert what_differs([], [odd, ("plain", (3, 9, 9, 3), 1.0)]) == "added: a[1]-b.mp4, plain"


def test_a_damaged_checkpoint_is_called_that(tmp_path: Path, shots) -> None:
    """torch says "174812789" of the first, and much else of others."""
    loop = LoopOptions(out=tmp_path, workers=0)
    trainer = Trainer(small_options(), loop, shots, None)
    trainer.save()
    path = tmp_path / CHECKPOINT
    good = path.read_bytes()
    for content in (b"junk\n", b"", b"rubbish", good[:-100], good[: len(good) // 2]):
        path.write_bytes(content)
        with pytest.raises(TecoError) as error:
            Trainer(small_options(), loop, shots, None).resume()
        assert error.value.message == (
            f"{path} is no readable checkpoint: it is damaged, was cut off, or is something else"
        )
        assert "move it away" in error.value.hint


def test_an_incomplete_checkpoint_is_refused(tmp_path: Path, shots) -> None:
    loop = LoopOptions(out=tmp_path, workers=0)
    trainer = Trainer(small_options(), loop, shots, None)
    trainer.save()
    state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    del state["optimizer"]
    torch.save(state, tmp_path / CHECKPOINT)
    with pytest.raises(TecoError, match="no complete checkpoint: 'optimizer' is not in it"):
        Trainer(small_options(), loop, shots, None).resume()
    trainer.save()
    state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    lost = next(iter(state["generator"]))
    del state["generator"][lost]
    torch.save(state, tmp_path / CHECKPOINT)
    with pytest.raises(TecoError, match=f"no complete checkpoint: .*{re.escape(lost)}"):
        Trainer(small_options(), loop, shots, None).resume()


def test_resuming_does_not_log_twice(tmp_path: Path, shots) -> None:
    loop = LoopOptions(out=tmp_path, workers=0, checkpoint_every=3, validate_every=2)
    validator = Validator(footage(frames=6, height=144, width=144))

    class Killed(Exception):
        pass

    def kill(p) -> None:
        if (p.stage, p.iteration) == ("recurrent", 5):
            raise Killed

    with pytest.raises(Killed):
        Trainer(small_options(), loop, shots, validator).run(kill)
    again = Trainer(small_options(), loop, shots, validator)
    assert again.resume()
    again.run(lambda _: None)
    lines = [json.loads(x) for x in (tmp_path / LOG).read_text().splitlines()]
    seen = [(x["stage"], x["iteration"]) for x in lines]
    expected = [("flow", n) for n in (2, 4)] + [("recurrent", n) for n in (2, 4, 6, 8)]
    assert seen == expected


def test_a_loss_that_is_no_number_stops_and_keeps_the_checkpoint(tmp_path: Path, shots) -> None:
    loop = LoopOptions(out=tmp_path, workers=0)
    trainer = Trainer(small_options(flow_iterations=0), loop, shots, None)
    trainer.save()
    good = (tmp_path / CHECKPOINT).read_bytes()
    with torch.no_grad():
        trainer.generator.srnet.conv_in[0].bias[0] = float("nan")  # type: ignore[index]
    with pytest.raises(DivergedError, match="iteration 1; the last checkpoint is kept") as error:
        trainer.run(lambda _: None)
    assert (tmp_path / CHECKPOINT).read_bytes() == good
    assert "a lower rate and another --out, for example --lr 0.0002" in error.value.hint


def test_a_loss_that_is_no_number_before_the_first_checkpoint(
    teco, tmp_path: Path, make_clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the command, without --out: nothing is said to be kept, and the rate in the hint is one
    to train with."""
    (tmp_path / "clips").mkdir()
    make_clip(tmp_path / "clips" / "a.mp4", pixels=list(footage(frames=4)))
    (tmp_path / "clips" / "clips.toml").write_text('[clips."a.mp4"]\nshrink = 1\n')
    (tmp_path / "mine.toml").write_text(
        f'variant = "{TINY}"\nflow_iterations = 0\niterations = 9\nbatch = 1\nframes = 2\n'
        "crop = 32\nwarm_up = 0\n"
    )
    monkeypatch.chdir(tmp_path)
    done = teco("train", "--config", "mine.toml", "--data", "clips", "--workers", 0, "--lr", 1e30,
                "--threads", 1)  # fmt: skip
    done.refuses(
        1, "in stage recurrent at iteration 2; no checkpoint was written yet",
        "start again with a lower rate, for example --lr 0.0004\n",
        after=("run folder: runs/mine", "decoding", "1 shots"),
    )  # fmt: skip
    assert "run folder: runs/mine\n" in done.stderr
    assert not (tmp_path / "runs" / "mine" / CHECKPOINT).exists()
    assert run_folder("recipes/paper.toml", TINY) == run_folder("paper", TINY) == Path("runs/paper")
    assert run_folder(None, TINY) == Path("runs") / TINY


def test_a_full_disk_keeps_the_previous_checkpoint(
    tmp_path: Path, shots, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = LoopOptions(out=tmp_path, workers=0)
    trainer = Trainer(small_options(), loop, shots, None)
    trainer.save()
    good = (tmp_path / CHECKPOINT).read_bytes()

    def full(state: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(TecoError, match="no space left"):
        trainer.save()
    assert (tmp_path / CHECKPOINT).read_bytes() == good
    assert not list(tmp_path.glob(".*part*"))


def train_command(out: Path, data: Path, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "teco", "train", "--data", str(data), "--out", str(out),
        "--variant", TINY, "--iterations", "12", "--flow-iterations", "6", "--batch", "2",
        "--flow-batch", "4", "--frames", "3", "--crop", "64", "--threads", "1",
        "--checkpoint-every", "2", *more,
    ]  # fmt: skip


@pytest.fixture
def data(tmp_path: Path, make_clip) -> Path:
    """A folder with one clip, used as it is."""
    folder = tmp_path / "data"
    folder.mkdir()
    make_clip(folder / "a.mp4", pixels=list(footage()), crf="1")
    (folder / "clips.toml").write_text('[clips."a.mp4"]\nshrink = 1\n')
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["recurrent", "gan"])
def test_sigkill_and_resume_is_exact(tmp_path: Path, data: Path, stage: str) -> None:
    """The acceptance of the trainer: a killed process, the same command again, the same bits."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    # Without VGG, whose weights are not in the repository.
    more = ("--gan-iterations", "16", "--perceptual-weight", "0") if stage == "gan" else ()
    more = (*more, "--workers", "1")
    subprocess.run(train_command(whole, data, *more), check=True, capture_output=True)
    process = subprocess.Popen(
        train_command(cut, data, *more), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    kill_in(stage, process, cut / CHECKPOINT)
    subprocess.run(train_command(cut, data, *more), check=True, capture_output=True)
    a, b = load_weights(whole / WEIGHTS), load_weights(cut / WEIGHTS)
    assert all(torch.equal(a.tensors[k], b.tensors[k]) for k in a.tensors)
    if stage == "gan":
        ours, theirs = (load_discriminator(out / DISCRIMINATOR, 64) for out in (whole, cut))
        assert all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.mark.slow
@pytest.mark.skipif(
    not (shutil.which("g++") and Path(sysconfig.get_path("include"), "Python.h").exists()),
    reason="torch.compile wants g++ and Python's headers",
)
def test_compiled_training_is_training(tmp_path: Path, data: Path) -> None:
    cache = tmp_path / "inductor"
    more = ("--flow-iterations", "0", "--iterations", "2", "--amp", "off", "--workers", "0")
    found = []
    for flag in ("--no-compile", "--compile"):
        out = tmp_path / flag
        done = subprocess.run(
            train_command(out, data, *more, flag), capture_output=True, text=True, check=False,
            env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(cache)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found.append(load_weights(out / WEIGHTS).tensors)
        assert bool(list(cache.rglob("*.so"))) == (flag == "--compile"), "what was compiled"
    assert_went_alike(*found, untrained(), 0.02)


@pytest.mark.slow
def test_torchrun_trains_what_one_process_trains(tmp_path: Path, data: Path) -> None:
    """As the README has it, on the CPU: two processes with half of each batch."""
    more = ("--iterations", "3", "--amp", "off", "--workers", "0")
    one, two = (train_command(tmp_path / name, data, *more) for name in ("one", "two"))
    subprocess.run(one, check=True, capture_output=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torchrun = [str(Path(sys.executable).with_name("torchrun")), "--nproc-per-node", "2"]
    rest = two[two.index("train") + 1 :]
    done = subprocess.run(
        [*torchrun, "--master-port", str(port), "-m", "teco", "train", *rest],
        capture_output=True, text=True, check=False, timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # One of them speaks.
    assert done.stdout.split() == [str(tmp_path / "two" / WEIGHTS)]
    assert done.stderr.count("next: teco export") == 1
    a, b = (load_weights(tmp_path / name / WEIGHTS) for name in ("one", "two"))
    assert (b.metadata or {})["iterations"] == "3"
    assert_went_alike(a.tensors, b.tensors, untrained(), 0.02)


@pytest.mark.slow
def test_sigterm_leaves_a_checkpoint_and_a_sentence(tmp_path: Path, data: Path) -> None:
    command = train_command(tmp_path / "run", data, "--iterations", "100000")
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "run" / CHECKPOINT).exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "teco: stopped in stage" in stderr
    assert "Traceback" not in stderr


def test_train_command_refuses_what_cannot_be(tmp_path: Path) -> None:
    from teco.cli.research.train import command

    for arguments, says in (
        (["--crop", "100"], "multiple of 32"),
        (["--variant", "teco-x4-b1-c16-bi"], ""),
        (["--device", "cuda"], "GPU"),
    ):
        if "cuda" in arguments and torch.cuda.is_available():
            continue
        full = ["--data", str(tmp_path / "no"), "--out", str(tmp_path / "out"), *arguments]
        result = CliRunner().invoke(command, full)
        assert isinstance(result.exception, TecoError)
        assert says in str(result.exception)
