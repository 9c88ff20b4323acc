"""The training loop: two stages, checkpoints, exact resume.

Stage ``flow`` gives FNet a supervised start (moved stills, classical flow on the HR truth); stage
``recurrent`` trains the whole generator on sequences. Everything that happens at an iteration is
a function of the options, the iteration's number and the tensors in the checkpoint, so a killed
run continues bit for bit (same machine, same number of threads).
"""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.utils.data import DataLoader, Subset

from teco.artifact import write_beside
from teco.errors import USAGE, TecoError
from teco.train.data import Sample, SampleOptions, SequenceDataset, Shot, collate, degrade_crop
from teco.train.init import initialise
from teco.train.losses import charbonnier, flow_loss, warp_loss
from teco.train.validate import Validation, Validator
from teco_models.checkpoint import load_weights, save_weights
from teco_models.generator import Generator
from teco_models.variant import Variant

CHECKPOINT = "last.pt"
WEIGHTS = "weights.safetensors"
LOG = "log.jsonl"
FORK = "fork" in multiprocessing.get_all_start_methods()
LOG_EVERY = 50
"""Iterations between lines of the log; each validation is a line too."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Everything that decides what a run computes.

    Attributes:
        variant: name of the network.
        iterations: of the recurrent stage.
        flow_iterations: of the supervised start of FNet before it; 0 leaves it out.
        batch: sequences an iteration.
        flow_batch: pairs of frames an iteration of the flow stage.
        frames: sequence length of the recurrent stage.
        crop: HR crop size.
        lr: peak learning rate of SRNet, and of FNet in the flow stage.
        fnet_lr_share: FNet's share of ``lr`` in the recurrent stage.
        lr_floor: the cosine ends at this share of the peak.
        warm_up: iterations of linear warm-up at the start of each stage.
        warp_weight: of the photometric loss on warped LR frames. The references use 1; on slow
            footage that pulls the flow to zero, because warping by part of a pixel blurs.
        flow_weight: of the supervision of the flow, LR pixels, in the recurrent stage.
        clip_norm: gradients are scaled down to this norm.
        ema: decay of the averaged weights, which are what is validated and saved.
        bf16: autocast the convolutions to bfloat16 (float32 weights and sums).
        channels_last: memory format of weights and activations.
        threads: CPU threads. Sums are split by them, so another number gives other last digits.
        seed: of initial weights and data.
    """

    variant: str
    iterations: int = 20_000
    flow_iterations: int = 3_000
    batch: int = 4
    flow_batch: int = 32
    frames: int = 6
    crop: int = 128
    lr: float = 4e-4
    fnet_lr_share: float = 0.25
    lr_floor: float = 0.02
    warm_up: int = 200
    warp_weight: float = 0.2
    flow_weight: float = 0.05
    clip_norm: float = 1.0
    ema: float = 0.999
    bf16: bool = True
    channels_last: bool = True
    threads: int = 1
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class LoopOptions:
    """What does not change the result: where things go and how often.

    Attributes:
        out: run folder.
        checkpoint_every: iterations between checkpoints.
        validate_every: iterations between validations.
        workers: data processes.
        device: of the network.
        init: weights file to start from instead of fresh ones.
    """

    out: Path
    checkpoint_every: int = 200
    validate_every: int = 500
    workers: int = 1
    device: str = "cpu"
    init: Path | None = None


@dataclass(frozen=True)
class Progress:
    """Told after every iteration."""

    stage: str
    iteration: int
    total: int
    losses: dict[str, float]
    validation: Validation | None = None


def _leave_signals_to_parent(_worker: int) -> None:
    """Ctrl-C reaches the whole process group; a worker that died of it would be reported as a crash
    before the parent has saved its checkpoint. Workers end when the parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class Trainer:
    """One run in one folder.

    Args:
        options: what to compute.
        loop: where and how often.
        shots: training data.
        validator: judges the averaged weights; None leaves validation out.

    Raises:
        TecoError: the folder holds a checkpoint of other options.
    """

    def __init__(
        self,
        options: TrainOptions,
        loop: LoopOptions,
        shots: list[Shot],
        validator: Validator | None,
    ) -> None:
        self.options = options
        self.loop = loop
        self.shots = shots
        self.validator = validator
        self.device = torch.device(loop.device)
        variant = Variant.parse(options.variant)
        if variant.degradation != "bd":
            raise TecoError(
                f"{variant.name} is a BI variant; training degrades by BD",
                hint=f"train {options.variant.removesuffix('-bi')}",
                exit_code=USAGE,
            )
        self.generator = Generator(variant).to(self.device)
        if loop.init is not None:
            weights = load_weights(loop.init)
            if weights.variant != variant:
                raise TecoError(
                    f"{loop.init} holds {weights.variant.name}, the run trains {variant.name}",
                    hint=f"leave --variant out, or give weights of {variant.name}",
                    exit_code=USAGE,
                )
            self.generator.load_state_dict(weights.tensors)
        else:
            initialise(self.generator, options.seed)
        if options.channels_last:
            self.generator.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.average = Generator(variant).to(self.device)
        self.average.load_state_dict(self.generator.state_dict())
        self.average.requires_grad_(False)
        self.stage = "flow" if options.flow_iterations else "recurrent"
        self.iteration = 0
        self.optimizer = self._optimizer()
        self.elapsed = 0.0
        self._stop = False

    @property
    def total(self) -> int:
        return self.options.flow_iterations if self.stage == "flow" else self.options.iterations

    def _optimizer(self) -> torch.optim.Optimizer:
        o = self.options
        fnet = list(self.generator.fnet.parameters())
        if self.stage == "flow":
            groups = [{"params": fnet, "share": 1.0}]
        else:
            srnet = list(self.generator.srnet.parameters())
            groups = [{"params": srnet, "share": 1.0}, {"params": fnet, "share": o.fnet_lr_share}]
        return torch.optim.Adam(groups, lr=o.lr, betas=(0.9, 0.999))

    def _set_learning_rate(self) -> None:
        o = self.options
        done = self.iteration / self.total
        cosine = o.lr_floor + (1 - o.lr_floor) * 0.5 * (1 + math.cos(math.pi * done))
        warm = min(1.0, (self.iteration + 1) / max(o.warm_up, 1))
        for group in self.optimizer.param_groups:
            group["lr"] = o.lr * cosine * warm * group["share"]

    # -- data ---------------------------------------------------------------------------------

    def _data_digest(self) -> str:
        """What the shots are, so that a run is not resumed on others."""
        facts = [(s.name, s.frames.shape, s.detail) for s in self.shots]
        return hashlib.sha256(repr(facts).encode()).hexdigest()

    def _samples(self) -> Iterator[Sample]:
        o = self.options
        if self.stage == "flow":
            sample = SampleOptions(
                crop=o.crop, frames=2, batch=o.flow_batch, still_share=0.5, seed=o.seed * 2 + 1
            )
        else:
            sample = SampleOptions(crop=o.crop, frames=o.frames, batch=o.batch, seed=o.seed * 2)
        data = SequenceDataset(self.shots, sample, self.total)
        rest = Subset(data, range(self.iteration, self.total))
        yield from DataLoader(
            rest,
            batch_size=1,
            num_workers=self.loop.workers,
            collate_fn=collate,
            worker_init_fn=_leave_signals_to_parent,
            prefetch_factor=4 if self.loop.workers else None,
            # Forked workers share the memory-mapped clips; others would be sent copies of them.
            multiprocessing_context="fork" if self.loop.workers and FORK else None,
        )

    # -- one iteration ------------------------------------------------------------------------

    def _losses(self, sample: Sample) -> dict[str, torch.Tensor]:
        o = self.options
        b, t = sample.hr.shape[:2]
        hr = sample.hr.to(self.device).flatten(0, 1).float() / 255
        lr = degrade_crop(hr)
        h, w = lr.shape[-2:]
        known = sample.flow.to(self.device).flatten(0, 1)
        lr_sequence = lr.view(b, t, 3, h, w)
        current = lr_sequence[:, 1:].reshape(-1, 3, h, w)
        previous = lr_sequence[:, :-1].reshape(-1, 3, h, w)
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=o.bf16)
        if self.stage == "flow":
            with autocast:
                flow = self.generator.flow(current, previous)
            return {"flow": flow_loss(flow, known)}
        truth = hr[..., 4:-4, 4:-4].view(b, t, 3, o.crop, o.crop)
        with autocast:
            out, flow = self.generator.sequence(lr_sequence)
        flow = flow.flatten(0, 1)
        losses = {"pixel": charbonnier(out.float(), truth)}
        if o.warp_weight:
            losses["warp"] = o.warp_weight * warp_loss(current, previous, flow)
        if o.flow_weight:
            losses["flow"] = o.flow_weight * flow_loss(flow, known)
        return losses

    def _iterate(self, sample: Sample) -> dict[str, float]:
        self._set_learning_rate()
        losses = self._losses(sample)
        total = torch.stack(list(losses.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.options.clip_norm)
        if not (torch.isfinite(total) and torch.isfinite(norm)):
            raise TecoError(
                f"the loss became {total.item():g} (gradient norm {norm.item():g}) in stage "
                f"{self.stage} at iteration {self.iteration + 1}; the last checkpoint is kept",
                hint=f"start again with a lower rate, for example --lr {self.options.lr / 2:g}",
            )
        self.optimizer.step()
        self._average()
        return {name: float(value.detach()) for name, value in losses.items()}

    @torch.no_grad()
    def _average(self) -> None:
        # The first iterations would otherwise be averaged with the initial weights for long.
        decay = min(self.options.ema, (self.iteration + 1) / (self.iteration + 10))
        pairs = zip(self.average.parameters(), self.generator.parameters(), strict=True)
        for mean, value in pairs:
            mean.lerp_(value, 1 - decay)

    # -- the run ------------------------------------------------------------------------------

    def run(self, report: Callable[[Progress], None]) -> None:
        """Train until done, calling ``report`` after each iteration; see :meth:`run_stage`."""
        while self.stage == "flow":
            self.run_stage(report)
        self.run_stage(report)

    def run_stage(self, report: Callable[[Progress], None]) -> None:
        """Finish the current stage and, after the flow stage, stand at the start of the next.

        Raises:
            TecoError: SIGINT or SIGTERM came (a checkpoint was written first), the loss is no
                longer finite, or a file cannot be written.
        """
        self._stop = False

        def stop(_signal: int, _frame: FrameType | None) -> None:
            self._stop = True

        # Only at the end of an iteration is there something whole to save.
        before = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            self._iterations(report)
        finally:
            for which, handler in before.items():
                signal.signal(which, handler)
        stopped = self._stop and self.stage == "flow"  # in its last iteration: more is to come
        if self.stage == "flow":
            self.stage, self.iteration, self.elapsed = "recurrent", 0, 0.0
            # What the flow stage averaged is where the whole network starts.
            self.generator.load_state_dict(self.average.state_dict())
            self.optimizer = self._optimizer()
        self.save()
        if stopped:
            raise self._stopped()

    def _iterations(self, report: Callable[[Progress], None]) -> None:
        began = time.monotonic() - self.elapsed
        for sample in self._samples():
            losses = self._iterate(sample)
            self.iteration += 1
            self.elapsed = time.monotonic() - began
            last = self.iteration == self.total
            validation = None
            if self.validator and (last or self.iteration % self.loop.validate_every == 0):
                validation = self.validator(self.average)
            progress = Progress(self.stage, self.iteration, self.total, losses, validation)
            if validation or self.iteration % LOG_EVERY == 0:
                self._log(progress)
            report(progress)
            if self._stop or self.iteration % self.loop.checkpoint_every == 0:
                self.save()
            if self._stop and not last:
                raise self._stopped()

    def _stopped(self) -> TecoError:
        return TecoError(
            f"stopped in stage {self.stage} at iteration {self.iteration} of {self.total}; "
            f"the checkpoint is in {self.loop.out}",
            hint="the same command goes on from there",
        )

    def _log(self, progress: Progress) -> None:
        record: dict[str, Any] = {
            "stage": progress.stage,
            "iteration": progress.iteration,
            "seconds": round(self.elapsed, 1),
            "lr": self.optimizer.param_groups[0]["lr"],
            **progress.losses,
        }
        if progress.validation:
            record["validation"] = progress.validation.as_dict()
        with (self.loop.out / LOG).open("a") as file:
            file.write(json.dumps(record) + "\n")

    # -- checkpoints --------------------------------------------------------------------------

    def save(self) -> None:
        """Write the checkpoint and the averaged weights, each beside and renamed."""
        state = {
            "options": asdict(self.options),
            "data": self._data_digest(),
            "stage": self.stage,
            "iteration": self.iteration,
            "elapsed": self.elapsed,
            "generator": self.generator.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        self.loop.out.mkdir(parents=True, exist_ok=True)
        path = self.loop.out / CHECKPOINT
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            torch.save(state, part)
            part.replace(path)
            metadata = {"stage": self.stage, "iterations": str(self.iteration)}
            save_weights(self.loop.out / WEIGHTS, self.average, metadata=metadata)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            raise TecoError(
                f"the checkpoint could not be written to {self.loop.out}: {error}",
                hint="free some space; the previous checkpoint is still valid, and the same "
                "command goes on from it",
            ) from error
        finally:
            part.unlink(missing_ok=True)

    def resume(self) -> bool:
        """Continue from the folder's checkpoint, if there is one.

        Returns:
            Whether there was one.

        Raises:
            TecoError: it cannot be read, or was made with other options, which are named.
        """
        path = self.loop.out / CHECKPOINT
        if not path.exists():
            return False
        try:
            state: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
            saved: dict[str, Any] = state["options"]
        except Exception as error:  # whatever is wrong with the file, it is no checkpoint
            raise TecoError(
                f"{path} is no readable checkpoint: {str(error).splitlines()[0][:200]}",
                hint="move it away to start again, or give another --out",
            ) from error
        ours = asdict(self.options)
        different = [
            f"{f.name} was {saved.get(f.name)!r}, is now {ours[f.name]!r}"
            for f in fields(self.options)
            if saved.get(f.name) != ours[f.name]
        ]
        if not different and state.get("data", self._data_digest()) != self._data_digest():
            raise TecoError(
                f"{path} was made with other clips or another clips.toml",
                hint="give the --data it was made with, or another --out",
                exit_code=USAGE,
            )
        if different:
            raise TecoError(
                f"{path} was made with other options: {'; '.join(different)}",
                hint="give the options it was made with, or another --out",
                exit_code=USAGE,
            )
        try:
            self.stage, self.iteration = state["stage"], state["iteration"]
            self.elapsed = state["elapsed"]
            self.generator.load_state_dict(state["generator"])
            self.average.load_state_dict(state["average"])
            self.optimizer = self._optimizer()
            self.optimizer.load_state_dict(state["optimizer"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise TecoError(
                f"{path} is no complete checkpoint: {str(error).splitlines()[0][:200]}",
                hint="move it away to start again, or give another --out",
            ) from error
        self._forget_what_follows()
        return True

    def _forget_what_follows(self) -> None:
        """Drop the log's lines from after the checkpoint; they are about to be written again."""
        path = self.loop.out / LOG
        if not path.exists():
            return
        here = (self.stage == "recurrent", self.iteration)
        kept: list[str] = []
        for line in path.read_text().splitlines(keepends=True):
            record = json.loads(line) if line.endswith("\n") else None
            if record and (record["stage"] == "recurrent", record["iteration"]) <= here:
                kept.append(line)
        write_beside(path, "".join(kept).encode())
