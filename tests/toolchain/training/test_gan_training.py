"""The GAN stage, distillation, masks, ties and several processes, in the loop."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from training_runs import assert_went_alike, footage, kill_in, of_scale, untrained

from teco.core.errors import TecoError
from teco.training import adversary
from teco.training import loop as loop_module
from teco.training.data.sequences import shot_of
from teco.training.distributed import Processes, SharedBatchNorm, share_batch_norm
from teco.training.learning_rate import learning_rate_share
from teco.training.loop import Trainer
from teco.training.losses.terms import ping_pong
from teco.training.options import LoopOptions, TrainOptions
from teco.training.run_folder import (
    CHECKPOINT,
    DISCRIMINATOR,
    LOG,
    SAMPLES,
    WEIGHTS,
    RunFolder,
)
from teco.training.stages import Batch
from teco.training.validate import Validator
from teco_models.arch.discriminator import Discriminator
from teco_models.arch.generator import Generator
from teco_models.arch.ops import warp
from teco_models.checkpoint import (
    load_discriminator,
    load_weights,
    save_discriminator,
    save_weights,
    write_tensors,
)
from teco_models.compress.sharing import share_blocks
from teco_models.compress.sparsity import magnitude_masks, save_masks
from teco_models.errors import ModelError
from teco_models.variant import Variant

TINY = "teco-x4-b1-c16-f8-shuffle"
FREE = "teco-x4-b1-c16-f0-shuffle"


@pytest.fixture(scope="module")
def shots():
    return [shot_of("a", footage(seed=1)), shot_of("b", footage(frames=3, seed=2))]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def random_vgg(monkeypatch: pytest.MonkeyPatch) -> None:
    """A perceptual loss whose VGG16 is narrow and random: the real one is not in the repository."""

    class Narrow(torch.nn.Module):
        which = "narrow"

        def __init__(self) -> None:
            super().__init__()
            with torch.random.fork_rng():
                torch.manual_seed(0)
                self.net = torch.nn.Conv2d(3, 8, 3, padding=1).requires_grad_(False)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            a, b = self.net(x), self.net(y.detach())
            return 1 - torch.nn.functional.cosine_similarity(a, b, dim=1).mean()

    monkeypatch.setattr(loop_module, "perceptual", lambda _which, _device: Narrow())


def options(**changes) -> TrainOptions:
    fields = {
        "variant": TINY, "iterations": 2, "flow_iterations": 0, "gan_iterations": 6, "batch": 2,
        "frames": 3, "crop": 64, "warm_up": 1, "perceptual_frames": 1, "gan_lr": 1e-3,
        "discriminator_lr": 1e-3,
    }  # fmt: skip
    return TrainOptions(**{**fields, **changes})


class Killed(Exception):
    pass


@pytest.mark.usefixtures("random_vgg")
def test_without_a_weight_the_discriminator_is_left_alone(tmp_path: Path, shots) -> None:
    """A perceptual network without an adversary: what is not asked costs nothing."""
    o = options(iterations=0, gan_weight=0.0, pattern_weight=2.0, perceptual_shift=8)
    trainer = Trainer(o, LoopOptions(out=tmp_path, workers=0, init=None), shots, None)
    losses: list[dict[str, float]] = []
    trainer.run(lambda p: losses.append(p.losses))
    assert len(losses) == 6
    assert set(losses[-1]) == {"pixel", "warp", "flow", "pingpong", "pattern", "perceptual"}
    assert all(np.isfinite(x) for p in losses for x in p.values())
    assert trainer.adversary is not None
    fresh = adversary.Adversary(trainer.generator, o, None, Processes(), torch.device("cpu"))
    learned = trainer.adversary.discriminator.state_dict()
    for name, start in fresh.discriminator.state_dict().items():
        assert torch.equal(learned[name], start), name


def test_the_perceptual_corner_moves_and_is_the_same_for_the_same_iteration() -> None:
    seen: list[torch.Size] = []

    def look(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        assert torch.equal(x, y)  # both from the same corner
        seen.append(x.shape)
        return x.mean()

    o = options(gan_weight=0.0, perceptual_shift=16, perceptual_frames=0)
    generator = Generator(Variant.parse(TINY))

    class Looks(torch.nn.Module):
        forward = staticmethod(look)

    judge = adversary.Adversary(generator, o, Looks(), Processes(), torch.device("cpu"))
    truth = torch.rand(1, 3, 3, 64, 64)
    batch = Batch(lr=torch.rand(1, 3, 3, 16, 16), truth=truth, flow=torch.zeros(1, 2, 2, 16, 16))
    pictures = ping_pong(truth)
    for iteration in (1, 2, 3, 1):
        judge(batch, pictures, iteration)
    assert seen[0] == seen[3]
    assert len(set(seen[:3])) > 1
    assert all(64 - 16 < side <= 64 for shape in seen for side in shape[2:])


@pytest.mark.usefixtures("random_vgg")
def test_the_gan_stage_runs_logs_and_keeps_the_recurrent_weights(tmp_path: Path, shots) -> None:
    validator = Validator(footage(frames=6, height=144, width=144))
    loop = LoopOptions(out=tmp_path, workers=0, validate_every=3)
    trainer = Trainer(options(), loop, shots, validator)
    seen: list[tuple[str, int]] = []
    losses: list[dict[str, float]] = []

    def watch(p) -> None:
        seen.append((p.stage, p.iteration))
        losses.append(p.losses)

    trainer.run(watch)
    assert seen == [("recurrent", 1), ("recurrent", 2)] + [("gan", i) for i in range(1, 7)]
    assert set(losses[-1]) == {
        "pixel", "warp", "flow", "gan", "pingpong", "perceptual", "discriminator", "balance",
        "discriminator_learns",
    }  # fmt: skip
    assert all(np.isfinite(x) for p in losses for x in p.values())
    assert trainer.adversary is not None
    fresh = adversary.Adversary(
        trainer.generator, options(), None, Processes(), torch.device("cpu")
    )
    learned = dict(trainer.adversary.discriminator.named_parameters())
    for name, start in fresh.discriminator.named_parameters():
        assert not torch.equal(learned[name], start), name
    before, after = (
        load_weights(RunFolder(tmp_path).stage_weights("recurrent")),
        load_weights(tmp_path / WEIGHTS),
    )
    assert (before.metadata or {})["stage"] == "recurrent"
    assert (before.metadata or {})["iterations"] == "2"
    assert not torch.equal(
        before.tensors["srnet.conv_in.0.weight"], after.tensors["srnet.conv_in.0.weight"]
    )
    records = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    judged = [r for r in records if "validation" in r]
    assert "tof" in judged[-1]["validation"]
    assert sorted(p.name for p in (tmp_path / SAMPLES).iterdir()) == [
        "gan-000003.png", "gan-000006.png", "recurrent-000002.png",
    ]  # fmt: skip


@pytest.mark.usefixtures("random_vgg")
@pytest.mark.parametrize("variant", [TINY, FREE])
def test_killed_in_the_gan_stage_and_resumed_is_exact(tmp_path: Path, shots, variant: str) -> None:
    """Discriminator, its optimizer and its running statistics included."""
    o = options(variant=variant)
    whole = Trainer(o, LoopOptions(out=tmp_path / "whole", workers=0), shots, None)
    whole.run(lambda _: None)
    loop = LoopOptions(out=tmp_path / "cut", workers=0, checkpoint_every=2)

    def kill(p) -> None:
        if (p.stage, p.iteration) == ("gan", 5):
            raise Killed

    with pytest.raises(Killed):
        Trainer(o, loop, shots, None).run(kill)
    second = Trainer(o, loop, shots, None)
    assert second.resume()
    assert (second.stage, second.iteration) == ("gan", 4)
    second.run(lambda _: None)
    states = [
        torch.load(tmp_path / run / CHECKPOINT, weights_only=True) for run in ("whole", "cut")
    ]
    for part in ("generator", "average"):
        assert all(torch.equal(v, states[1][part][k]) for k, v in states[0][part].items())
    a, b = (s["adversary"]["discriminator"] for s in states)
    assert all(torch.equal(v, b[k]) for k, v in a.items())


@pytest.mark.usefixtures("random_vgg")
def test_the_discriminator_rests_when_it_is_ahead(tmp_path: Path, shots) -> None:
    """With a limit that any balance exceeds it never learns; its weights stay."""
    o = options(iterations=0, balance_limit=-1e9)
    trainer = Trainer(o, LoopOptions(out=tmp_path, workers=0), shots, None)
    assert trainer.adversary is not None
    before = {k: v.clone() for k, v in trainer.adversary.discriminator.named_parameters()}
    figures: list[dict[str, float]] = []
    trainer.run(lambda p: figures.append(p.losses))
    assert all(f["discriminator_learns"] == 0 for f in figures)
    after = dict(trainer.adversary.discriminator.named_parameters())
    assert all(torch.equal(v, after[k]) for k, v in before.items())


@pytest.mark.usefixtures("random_vgg")
def test_the_discriminators_gradients_are_scaled_down_to_the_norm(tmp_path: Path, shots) -> None:
    found = []
    for limit in (float("inf"), 1e-3):
        o = options(iterations=0, gan_iterations=1, amp="off", clip_norm=limit)
        trainer = Trainer(o, LoopOptions(out=tmp_path / f"{limit}", workers=0), shots, None)
        trainer.run(lambda _: None)
        assert trainer.adversary is not None
        parameters = trainer.adversary.discriminator.parameters()
        found.append(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]))
    raw, clipped = found
    assert float(raw.norm()) > 1e-2
    assert torch.allclose(clipped, raw * (1e-3 / raw.norm()), rtol=1e-3, atol=1e-9)


@pytest.mark.usefixtures("random_vgg")
def test_both_references_losses(tmp_path: Path, shots) -> None:
    """The same first batch by either: what differs is what the options say, by its own formula."""
    found = []
    for kind in ("port", "tensorflow"):
        more = {"pixel_loss": "squared", "pingpong_loss": "l1", "feature_weight": 0.02}
        o = options(iterations=0, gan_iterations=1, amp="off", **(more if kind != "port" else {}))
        trainer = Trainer(o, LoopOptions(out=tmp_path / kind, workers=0), shots, None)
        batch = Batch.of(next(iter(trainer._samples())), 64, torch.device("cpu"))
        with torch.no_grad():
            out, flow = trainer.generator.sequence(ping_pong(batch.lr))
        assert flow is not None
        truth, forth = ping_pong(batch.truth), flow[:, :2].flatten(0, 1)
        now, before = batch.pairs
        warped = (warp(before, forth) - now).square()
        half = (out[:, :2] - out[:, 3:].flip(1)).abs()
        if kind == "port":
            expected = {
                "pixel": ((out - truth).square() + 1e-6).sqrt().mean(),
                "warp": 0.2 * (warped + 1e-6).sqrt().mean(),
                "pingpong": 0.5 * (half.square() + 1e-6).sqrt().mean(),
            }
        else:
            # Pictures in [-1, 1], so differences double; squares are summed over the colours.
            expected = {
                "pixel": 12 * (out - truth).square().mean(),
                "warp": 0.2 * 3 * warped.mean(),
                "pingpong": 0.5 * 2 * half.mean(),
            }
        losses: dict[str, float] = {}
        trainer.run(lambda p, into=losses: into.update(p.losses))
        for name, value in expected.items():
            assert losses[name] == pytest.approx(float(value), rel=1e-3), (kind, name)
        found.append(losses)
    assert "feature" not in found[0]
    assert found[1]["feature"] > 0


def test_a_missing_backbone_is_a_sentence(
    tmp_path: Path, shots, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TECO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with pytest.raises(TecoError, match="VGG"):
        Trainer(options(iterations=0), LoopOptions(out=tmp_path, workers=0), shots, None)


def test_the_perceptual_loss_takes_its_frames_from_the_end() -> None:
    """Of 2T-1 = 11 frames of a ping-pong sequence, the way there is 0..5."""
    shown = adversary.frames_shown
    assert shown(11, 1) == [5]
    assert shown(11, 2) == [5, 2]
    assert shown(11, 6) == [5, 4, 3, 2, 1, 0]
    assert shown(11, 99) == [5, 4, 3, 2, 1, 0]


# --- distillation ----------------------------------------------------------------------------


def saved(path: Path, name: str, seed: int) -> Path:
    from teco.training.init import initialise

    generator = Generator(Variant.parse(name))
    initialise(generator, seed)
    save_weights(path, generator)
    return path


def test_distillation_pulls_towards_the_teacher(tmp_path: Path, shots) -> None:
    """With the teacher's own weights every distance is zero; with others it falls."""
    teacher = saved(tmp_path / "teacher.safetensors", "teco-x4-b2-c24-f8-shuffle", 5)
    o = options(gan_iterations=0, iterations=1, distil_output=1.0, distil_flow=1.0,
                distil_feature=1.0, amp="off")  # fmt: skip
    student = LoopOptions(out=tmp_path / "a", workers=0, teacher=teacher)
    losses: dict[str, float] = {}
    Trainer(o, student, shots, None).run(lambda p: losses.update(p.losses))
    assert min(losses[f"distil_{x}"] for x in ("output", "flow", "feature")) > 1e-4
    own = TrainOptions(**{**o.__dict__, "variant": "teco-x4-b2-c24-f8-shuffle"})
    same = LoopOptions(out=tmp_path / "b", workers=0, teacher=teacher, init=teacher)
    Trainer(own, same, shots, None).run(lambda p: losses.update(p.losses))
    assert losses["distil_output"] == pytest.approx(1e-3, rel=1e-3)  # sqrt(0 + 1e-6)
    assert losses["distil_flow"] == pytest.approx(1e-2, rel=1e-3)  # sqrt(0 + 1e-4)
    assert losses["distil_feature"] == pytest.approx(0, abs=1e-6)


def test_a_teacher_must_be_given_and_fit(tmp_path: Path, shots) -> None:
    o = options(gan_iterations=0, distil_output=1.0)
    with pytest.raises(TecoError, match="no teacher") as error:
        Trainer(o, LoopOptions(out=tmp_path, workers=0), shots, None)
    assert "--teacher" in error.value.hint
    other = saved(tmp_path / "bi.safetensors", "teco-x4-b1-c16-f8-shuffle-bi", 0)
    with pytest.raises(TecoError, match="another degradation"):
        Trainer(o, LoopOptions(out=tmp_path, workers=0, teacher=other), shots, None)
    double = tmp_path / "double.safetensors"
    write_tensors(double, of_scale(Variant.parse(TINY), 2))
    for given in ({"teacher": double}, {"init": double}):
        with pytest.raises(ModelError, match=r"double\.safetensors is of scale x2, expected x4"):
            Trainer(o, LoopOptions(out=tmp_path, workers=0, **given), shots, None)


# --- another run's discriminator -------------------------------------------------------------


@pytest.mark.usefixtures("random_vgg")
def test_a_discriminator_is_kept_and_begun_with(tmp_path: Path, shots) -> None:
    first = Trainer(options(iterations=0), LoopOptions(out=tmp_path / "a", workers=0), shots, None)
    first.run(lambda p: None)
    assert first.adversary is not None
    kept = load_discriminator(tmp_path / "a" / DISCRIMINATOR, 64)
    ended = first.adversary.discriminator.state_dict()
    assert all(torch.equal(kept[k], v) for k, v in ended.items())
    loop = LoopOptions(out=tmp_path / "b", workers=0, discriminator=tmp_path / "a" / DISCRIMINATOR)
    second = Trainer(options(iterations=1), loop, shots, None)
    assert second.adversary is None, "it is for the GAN stage alone"
    second._enter("gan")
    assert second.adversary is not None
    begun = second.adversary.discriminator.state_dict()
    assert all(torch.equal(begun[k], v) for k, v in ended.items())
    fresh = Trainer(options(iterations=0), LoopOptions(out=tmp_path / "c"), shots, None).adversary
    assert fresh is not None
    weight = "dense.weight"
    assert not torch.equal(fresh.discriminator.state_dict()[weight], ended[weight])


@pytest.mark.usefixtures("random_vgg")
def test_discriminators_that_do_not_fit(tmp_path: Path, shots) -> None:
    def refused(words: str, path: Path, **changes) -> None:
        loop = LoopOptions(out=tmp_path / "run", workers=0, discriminator=path)
        with pytest.raises((TecoError, ModelError), match=words) as error:
            Trainer(options(**changes), loop, shots, None)
        assert error.value.exit_code in (1, 2)
        assert error.value.hint

    path = tmp_path / "d.safetensors"
    refused("no discriminator at", path)
    path.write_bytes(b"nothing")
    refused("damaged safetensors file", path)
    save_discriminator(path, Discriminator(128))
    refused(r"holds no discriminator for pictures of 64x64: dense\.weight is \(1, 16384\)", path)
    save_discriminator(path, Discriminator(64))
    refused("the run has no GAN stage", path, gan_iterations=0)
    # Resumed with another one than it began with.
    loop = LoopOptions(out=tmp_path / "run", workers=0, discriminator=path)
    Trainer(options(iterations=0, gan_iterations=1), loop, shots, None).run(lambda p: None)
    save_discriminator(path, Discriminator(64))
    again = Trainer(options(iterations=0, gan_iterations=1), loop, shots, None)
    with pytest.raises(TecoError, match="discriminator was"):
        again.resume()


# --- masks and ties --------------------------------------------------------------------------


def test_masked_weights_stay_zero(tmp_path: Path, shots) -> None:
    init = saved(tmp_path / "init.safetensors", TINY, 1)
    masks = magnitude_masks(load_weights(init), 0.5)
    if not isinstance(masks, dict):
        masks = masks[0]
    save_masks(tmp_path / "masks.safetensors", masks)
    loop = LoopOptions(out=tmp_path / "run", workers=0, init=init,
                       masks=tmp_path / "masks.safetensors")  # fmt: skip
    Trainer(options(gan_iterations=0, iterations=3), loop, shots, None).run(lambda _: None)
    trained = load_weights(tmp_path / "run" / WEIGHTS).tensors
    pruned = 0
    for name, mask in masks.items():
        gone = ~mask.bool()
        pruned += int(gone.sum())
        assert not trained[name][gone].any()
        assert trained[name].any() or gone.all()
    assert pruned > 1000


def test_tied_blocks_stay_tied(tmp_path: Path, shots) -> None:
    name = "teco-x4-b3-c16-f8-shuffle"
    tied = share_blocks(load_weights(saved(tmp_path / "w.safetensors", name, 1)), 2)
    generator = Generator(tied.variant)
    generator.load_state_dict(tied.tensors)
    init = tmp_path / "tied.safetensors"
    save_weights(init, generator, metadata=tied.metadata)
    loop = LoopOptions(out=tmp_path / "run", workers=0, init=init)
    o = options(variant=name, gan_iterations=0, iterations=3)
    Trainer(o, loop, shots, None).run(lambda _: None)
    trained = load_weights(tmp_path / "run" / WEIGHTS)
    key = "srnet.resblocks.{}.conv.0.weight"
    blocks = [trained.tensors[key.format(i)] for i in range(3)]
    assert torch.equal(blocks[0], blocks[1])
    assert not torch.equal(blocks[1], blocks[2])
    assert not torch.equal(blocks[0], tied.tensors[key.format(0)])
    assert (trained.metadata or {})["shared_blocks"] == "0,0,1"


# --- schedules -------------------------------------------------------------------------------


def test_rates_by_hand() -> None:
    steps = TrainOptions(
        variant=TINY, iterations=100, gan_iterations=10, schedule="steps", milestones=(40, 80),
        warm_up=0,
    )  # fmt: skip
    assert [learning_rate_share(steps, "recurrent", i) for i in (0, 39, 40, 79, 80)] == [
        1,
        1,
        0.5,
        0.5,
        0.25,
    ]
    assert learning_rate_share(steps, "gan", 9) == 1
    cool = TrainOptions(variant=TINY, iterations=100, schedule="constant", cool_down=20,
                        lr_floor=0.1, warm_up=10)  # fmt: skip
    assert learning_rate_share(cool, "recurrent", 0) == pytest.approx(0.1)
    assert learning_rate_share(cool, "recurrent", 79) == pytest.approx(1)
    assert learning_rate_share(cool, "recurrent", 90) == pytest.approx(0.1 + 0.9 * 0.5)
    cosine = TrainOptions(variant=TINY, iterations=100, lr_floor=0.02, warm_up=0)
    assert learning_rate_share(cosine, "recurrent", 50) == pytest.approx(0.51)


def test_nothing_to_train_is_refused() -> None:
    with pytest.raises(TecoError, match="nothing to train"):
        TrainOptions(variant=TINY, iterations=0, flow_iterations=0)


@pytest.mark.usefixtures("random_vgg")
def test_no_flow_stage_without_a_flow_net(tmp_path: Path, shots) -> None:
    o = options(variant=FREE, flow_iterations=2)
    with pytest.raises(TecoError, match="no flow net") as error:
        Trainer(o, LoopOptions(out=tmp_path, workers=0), shots, None)
    assert error.value.hint == "give --flow-iterations 0"


@pytest.mark.slow
@pytest.mark.usefixtures("random_vgg")
def test_float16_with_loss_scaling_runs_and_resumes(tmp_path: Path, shots) -> None:
    o = options(variant=FREE, amp="fp16", iterations=3, gan_iterations=2)
    whole = Trainer(o, LoopOptions(out=tmp_path / "a", workers=0), shots, None)
    whole.run(lambda _: None)
    loop = LoopOptions(out=tmp_path / "b", workers=0, checkpoint_every=1)

    def kill(p) -> None:
        if p.iteration == 2:
            raise Killed

    with pytest.raises(Killed):
        Trainer(o, loop, shots, None).run(kill)
    second = Trainer(o, loop, shots, None)
    assert second.resume()
    second.run(lambda _: None)
    a, b = (load_weights(tmp_path / run / WEIGHTS).tensors for run in "ab")
    assert all(torch.equal(a[k], b[k]) for k in a)


# --- several processes -----------------------------------------------------------------------


def test_shared_batch_norm_is_batch_norm_of_the_whole_batch(tmp_path: Path) -> None:
    """In one process of one: the formulas. Two processes are compared below."""
    import torch.distributed as dist

    dist.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        x = torch.rand(4, 5, 6, 7)
        ours, theirs = SharedBatchNorm(5), torch.nn.BatchNorm2d(5)
        results = []
        for norm in (ours, theirs):
            y = x.clone().requires_grad_()
            (norm(y) * torch.linspace(0, 1, 7)).square().sum().backward()
            results.append((y.grad, norm.running_mean, norm.running_var, norm.weight.grad))
        for a, b in zip(*results, strict=True):
            assert torch.allclose(a, b, atol=1e-5)
    finally:
        dist.destroy_process_group()


WORKER = """
import sys
from pathlib import Path
import torch
sys.path[:] = {tests!r}
from test_gan_training import TINY, options, shots_of, Narrowed
from teco.training import loop
from teco.training.distributed import process_group
from teco.training.loop import Trainer
from teco.training.options import LoopOptions
torch.set_num_threads(1)
loop.perceptual = lambda which, device: Narrowed()
with process_group("cpu") as processes:
    o = options({lengths}, flow_batch=4, amp="off")
    out = Path(sys.argv[1])
    out.mkdir(exist_ok=True)
    Trainer(o, LoopOptions(out=out, workers=0), shots_of(), None, processes).run(lambda _: None)
"""


class Narrowed(torch.nn.Module):
    """For the worker processes, where a fixture does not reach."""

    which = "narrowed"

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x - y.detach()).square().mean()


def shots_of():
    return [shot_of("a", footage(seed=1)), shot_of("b", footage(frames=3, seed=2))]


def launch(
    tmp_path: Path,
    out: Path,
    processes: int,
    lengths: str = "iterations=3, gan_iterations=3, flow_iterations=2",
) -> None:
    """The worker under the environment that torchrun would set."""
    script = tmp_path / "worker.py"
    script.write_text(WORKER.format(tests=sys.path, lengths=lengths))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = []
    for rank in range(processes):
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        if processes > 1:
            env |= {
                "RANK": str(rank), "WORLD_SIZE": str(processes), "LOCAL_RANK": str(rank),
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            }  # fmt: skip
        running.append(subprocess.Popen([sys.executable, str(script), str(out)], env=env))
    assert [p.wait(timeout=240) for p in running] == [0] * processes


@pytest.mark.slow
def test_two_processes_equal_one_with_the_whole_batch(tmp_path: Path) -> None:
    """All three stages, the discriminator's batch statistics and update rule included."""
    launch(tmp_path, tmp_path / "one", 1)
    launch(tmp_path, tmp_path / "two", 2)
    states = [torch.load(tmp_path / run / CHECKPOINT, weights_only=True) for run in ("one", "two")]
    for part in ("generator", "average"):
        assert_went_alike(*(s[part] for s in states), untrained(), 0.02)
    a, b = (s["adversary"]["discriminator"] for s in states)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fresh = Discriminator(64).state_dict()
    weights = {k: v for k, v in a.items() if k.endswith(("weight", "bias"))}
    assert_went_alike(weights, b, fresh, 0.05)
    for key in a:
        if "running" in key:
            assert torch.allclose(a[key], b[key], rtol=0.02, atol=1e-3), key


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["flow", "recurrent", "gan"])
def test_sigkill_in_any_stage_and_resume_is_exact(tmp_path: Path, stage: str) -> None:
    """The process is killed for real at some moment of the stage, between two checkpoints."""
    longer = "iterations=16, gan_iterations=16, flow_iterations=24"
    launch(tmp_path, tmp_path / "whole", 1, longer)
    out = tmp_path / "cut"
    script = tmp_path / "worker.py"
    text = script.read_text().replace("workers=0)", "workers=0, checkpoint_every=2)")
    text = text.replace(".run(lambda _: None)", "").replace("    Trainer(", "    t = Trainer(")
    script.write_text(text + "    t.resume()\n    t.run(lambda _: None)\n")
    process = subprocess.Popen([sys.executable, str(script), str(out)])
    kill_in(stage, process, out / CHECKPOINT)
    subprocess.run([sys.executable, str(script), str(out)], check=True)
    a, b = (load_weights(tmp_path / run / WEIGHTS).tensors for run in ("whole", "cut"))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path, shots) -> None:
    loop = LoopOptions(out=tmp_path, workers=0)
    with pytest.raises(TecoError, match="cannot be divided among 2 processes"):
        Trainer(options(batch=3, gan_iterations=0), loop, shots, None, Processes(0, 2, 0))


def test_batch_norms_are_replaced_where_they_are() -> None:
    network = torch.nn.Sequential(torch.nn.BatchNorm2d(4)).double()
    share_batch_norm(network)
    assert isinstance(network[0], SharedBatchNorm)
    assert network[0].weight.dtype == torch.float64


# --- what a run refuses ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"batch": 0}, {"frames": 1}, {"lr": -1.0}, {"lr": float("nan")}, {"max_stride": 0},
        {"crop": 0}, {"iterations": -2}, {"still_share": 2.0}, {"ema": 1.5}, {"clip_norm": -1.0},
        {"gan_weight": float("inf")},
    ],
    ids=str,
)  # fmt: skip
def test_numbers_that_mean_nothing_are_refused(change: dict[str, float]) -> None:
    (name,) = change
    with pytest.raises(TecoError, match=f"{name} is|--{name}") as error:
        options(**change)
    assert error.value.exit_code == 2


def test_a_missing_backbone_is_noticed_before_the_first_stage(
    tmp_path: Path, shots, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(_which: str, _device: object) -> None:
        raise TecoError("VGG16 is not here")

    monkeypatch.setattr(loop_module, "perceptual", missing)
    with pytest.raises(TecoError, match="VGG16"):
        Trainer(options(iterations=100), LoopOptions(out=tmp_path, workers=0), shots, None)


def test_resuming_with_another_teacher_masks_or_without_ties_names_them(
    tmp_path: Path, shots
) -> None:
    one = saved(tmp_path / "one.safetensors", TINY, 1)
    two = saved(tmp_path / "two.safetensors", TINY, 2)
    o = options(gan_iterations=0, distil_output=1.0)
    Trainer(o, LoopOptions(out=tmp_path / "a", workers=0, teacher=one), shots, None).save()
    with pytest.raises(TecoError, match=r"teacher was [0-9a-f]{12}, is now [0-9a-f]{12}"):
        Trainer(o, LoopOptions(out=tmp_path / "a", workers=0, teacher=two), shots, None).resume()
    masks = tmp_path / "masks.safetensors"
    save_masks(masks, magnitude_masks(load_weights(one), 0.5))
    o = options(gan_iterations=0)
    Trainer(
        o, LoopOptions(out=tmp_path / "b", workers=0, init=one, masks=masks), shots, None
    ).save()
    with pytest.raises(TecoError, match=r"masks was [0-9a-f]{12}, is now None"):
        Trainer(o, LoopOptions(out=tmp_path / "b", workers=0, init=one), shots, None).resume()


def test_a_flow_that_is_no_number_ends_in_a_sentence(tmp_path: Path) -> None:
    """In a process of its own: on a CPU the gradient of such a warp ends the process."""
    script = tmp_path / "worker.py"
    text = WORKER.format(tests=sys.path, lengths="iterations=3, gan_iterations=0")
    text = text.replace("    Trainer(", "    t = Trainer(").replace(".run(lambda _: None)", "")
    script.write_text(
        text.replace('amp="off"', 'amp="off", flow_weight=0.0')
        + "    torch.nn.init.constant_(t.generator.fnet.flow[2].bias, float('nan'))\n"
        + "    t.run(lambda _: None)\n"
    )
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "out")], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "DivergedError: the loss became nan in stage recurrent at iteration 1" in done.stderr
