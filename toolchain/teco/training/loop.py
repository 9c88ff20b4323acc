"""The training loop: stages, checkpoints, exact resume.

Stage ``flow`` gives FNet a supervised start (moved stills, classical flow on the HR truth); stage
``single`` trains on single frames, which have no past; stage ``recurrent`` trains the whole
generator on sequences; stage ``gan`` goes on from there against the spatio-temporal discriminator.
Everything that happens at an iteration is a function of the options, the iteration's number and the
tensors in the checkpoint, so a killed run continues bit for bit (same machine, same number of
threads); no generator of random numbers has a state to keep.
"""

from __future__ import annotations

import hashlib
import signal
import time
from collections.abc import Callable
from collections.abc import Generator as Yields
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn

from teco.core.errors import USAGE, TecoError
from teco.core.files import sha256_of
from teco.training.adversary import Adversary
from teco.training.data.clip_changes import ShotFacts, what_differs
from teco.training.data.pool import ClipPool, PoolDataset
from teco.training.data.realworld import RealWorld
from teco.training.data.sequences import (
    Sample,
    SampleOptions,
    SequenceDataset,
    Shot,
    batches,
    share,
)
from teco.training.distributed import Processes, parallel
from teco.training.init import initialise
from teco.training.learning_rate import learning_rate_share
from teco.training.losses.perceptual import Perceptual, perceptual
from teco.training.options import STAGES, LoopOptions, Stage, TrainOptions
from teco.training.run_folder import RunFolder, changed_options, complete
from teco.training.stages import Batch, GeneratorLosses, Losses
from teco.training.validate import Validation, Validator
from teco_models.arch.computed_alignment import AlignedGenerator
from teco_models.arch.generator import Generator
from teco_models.checkpoint import (
    AnyGenerator,
    generator_of,
    load_discriminator,
    load_weights,
)
from teco_models.compress.grow import can_grow, grow
from teco_models.compress.sharing import SHARED, format_pattern, parse_pattern, tie_blocks
from teco_models.compress.sparsity import apply_masks, load_masks
from teco_models.variant import Variant

PAST_GAIN = 0.1
"""What is left of the weights that read the past when the single stage, where there was none, ends;
as chance had made them the recurrent stage would begin far below where the single one ended."""

_OF_FLOW = ("warp_weight", "flow_weight")
"""Options of a learned flow."""

_OF_SHOTS = ("still_share", "still_speed", "max_stride", "real_world")
"""Options of training on shots that are degraded as they are drawn."""

LOG_EVERY = 50
"""Iterations between lines of the log; each validation is a line too."""


class DivergedError(TecoError):
    """The loss is no longer finite."""


@dataclass(frozen=True)
class IterationRecord:
    """What one iteration came to.

    Attributes:
        stage: that it belongs to.
        iteration: its number in the stage, from 1.
        total: iterations of the stage.
        losses: by name.
        validation: where there was one.
    """

    stage: Stage
    iteration: int
    total: int
    losses: dict[str, float]
    validation: Validation | None = None


def check_stages(options: TrainOptions) -> None:
    """Raise TecoError (exit code 2) for stages and options that the variant has no use for."""
    o, variant = options, Variant.parse(options.variant)

    def refuse(why: str, hint: str) -> TecoError:
        return TecoError(f"{variant.name} {why}", hint=hint, exit_code=USAGE)

    if variant.degradation == "bi":
        hint = f"train {o.variant.removesuffix('-bi')}"
        raise refuse("is a BI variant; training degrades by BD", hint)
    if o.flow_iterations and not variant.has_flow:
        raise refuse("has no flow net to train", "give --flow-iterations 0")
    if o.single_iterations and not variant.computed_alignment:
        hint = "give --single-iterations 0, or train a variant that ends in -real or -bd"
        raise refuse("is not trained on single frames", hint)
    if o.short_share and not variant.computed_alignment:
        hint = "give --short-share 0, or train a variant that ends in -real or -bd"
        raise refuse("is trained on sequences of one length", hint)

    def changed(names: tuple[str, ...]) -> str:
        found = [name for name in names if getattr(o, name) != getattr(TrainOptions, name)]
        return ", ".join(f"--{name.replace('_', '-')}" for name in found)

    if variant.computed_alignment and (said := changed(_OF_FLOW)):
        raise refuse(f"learns no flow, so that {said} means nothing", "leave it out")
    if variant.degradation == "real" and (said := changed(_OF_SHOTS)):
        raise refuse(f"is trained on a pool of clips, where {said} means nothing", "leave it out")


def _compilable(generator: AnyGenerator) -> list[nn.Module]:
    """The parts whose shapes stay the same."""
    if isinstance(generator, AlignedGenerator):
        return [generator.body]
    return [net for net in (generator.fnet, generator.srnet) if net is not None]


Watch = Callable[[IterationRecord], None]
"""Shown every iteration when it is done."""


class Trainer:
    """One run in one folder.

    Args:
        options: what to compute.
        loop: where and how often.
        data: shots, which are degraded by BD as they are drawn; or a pool of clips that went
            through a codec, for variants of the real degradation.
        validator: judges the averaged weights; None leaves validation out.
        processes: this process among its peers.

    Raises:
        TecoError: the weights to start from, the teacher or the masks do not fit, or the batch
            cannot be shared among the processes.
    """

    def __init__(
        self,
        options: TrainOptions,
        loop: LoopOptions,
        data: list[Shot] | ClipPool,
        validator: Validator | None,
        processes: Processes | None = None,
    ) -> None:
        self.options = options
        self.loop = loop
        self.folder = RunFolder(loop.out)
        self.data = data
        self.validator = validator
        self.processes = processes or Processes()
        self.device = torch.device(loop.device)
        if self.device.type == "cuda":
            # Convolutions kept out of autocast are so for their precision, which TF32 would take.
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cuda.matmul.allow_tf32 = False
            # Crops have one size, so the search for the fastest kernels is made once.
            torch.backends.cudnn.benchmark = True
        self._variant = Variant.parse(options.variant)
        check_stages(options)
        if isinstance(data, ClipPool) != (self._variant.degradation == "real"):
            raise TypeError(f"{self._variant.name} was given data of another degradation")
        self._real_world = RealWorld.parse(options.real_world)
        self.generator = self._start()
        self._masks = self._load_masks()
        self.average = generator_of(self._variant).to(self.device)
        self.average.load_state_dict(self.generator.state_dict())
        if self._tied is not None and isinstance(self.average, Generator):
            tie_blocks(self.average, self._tied)
        self.average.requires_grad_(False)
        self._teacher = self._load_teacher()
        if loop.compile:
            for net in _compilable(self.generator):
                net.compile()
        self.iteration = 0
        self.elapsed = 0.0
        self._stop = False
        for size in (
            options.batch,
            options.flow_batch if options.flow_iterations else 0,
            options.single_batch if options.single_iterations else 0,
        ):
            share(size, self.processes.rank, self.processes.world)
        # What the last stage needs is asked for before the first has cost days.
        self._perceptual: Perceptual | None = None
        if options.gan_iterations and options.perceptual_weight:
            self._perceptual = perceptual(options.perceptual, self.device)
        self._discriminator: dict[str, torch.Tensor] | None = None
        if loop.discriminator is not None:
            if not options.gan_iterations:
                raise TecoError(
                    f"{loop.discriminator} is given, and the run has no GAN stage",
                    hint="add --gan-iterations N, or leave --discriminator out",
                    exit_code=USAGE,
                )
            self._discriminator = load_discriminator(loop.discriminator, options.crop)
        self._enter(next(stage for stage in STAGES if options.total(stage)))

    @property
    def total(self) -> int:
        """Iterations of the current stage."""
        return self.options.total(self.stage)

    def _start(self) -> AnyGenerator:
        """The generator with the weights that training starts from."""
        torch.manual_seed(self.options.seed)
        generator = generator_of(self._variant).to(self.device)
        self._tied: tuple[int, ...] | None = None
        if self.loop.init is None:
            if isinstance(generator, Generator):
                initialise(generator, self.options.seed)
        else:
            weights = load_weights(self.loop.init)
            if weights.variant != self._variant:
                if not can_grow(weights.variant, self._variant):
                    raise TecoError(
                        f"{self.loop.init} holds {weights.variant.name}, the run trains "
                        f"{self._variant.name}, to which it cannot grow",
                        hint=f"leave --variant out, or give weights of {self._variant.name}; "
                        "only blocks, -bp and -lk can be added to weights, and scale 4 become 2",
                        exit_code=USAGE,
                    )
                torch.manual_seed(self.options.seed)
                weights = grow(weights, self._variant)
            generator.load_state_dict(weights.tensors)
            self._tied = parse_pattern(weights)
            if self._tied is not None and isinstance(generator, Generator):
                tie_blocks(generator, self._tied)
        if self.options.channels_last:
            generator.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        return generator

    def _load_masks(self) -> dict[str, torch.Tensor]:
        """What stays zero; applied to the start at once."""
        if self.loop.masks is None:
            return {}
        masks = {k: v.to(self.device) for k, v in load_masks(self.loop.masks).items()}
        apply_masks(self.generator, masks)
        return masks

    def _load_teacher(self) -> AnyGenerator | None:
        if not self.options.distils:
            return None
        if self.loop.teacher is None:
            raise TecoError(
                "the run distils, and no teacher is given", hint="add --teacher FILE",
                exit_code=USAGE,
            )  # fmt: skip
        weights = load_weights(self.loop.teacher)
        if weights.variant.degradation != self._variant.degradation:
            raise TecoError(
                f"the teacher {weights.variant.name} was trained for another degradation than "
                f"{self._variant.name}",
                hint="its upsampled frame is another; take a teacher of the same kind",
                exit_code=USAGE,
            )
        if weights.variant.scale != self._variant.scale:
            raise TecoError(
                f"the teacher {weights.variant.name} enlarges {weights.variant.scale} times, "
                f"{self._variant.name} {self._variant.scale} times",
                hint="take a teacher of the same scale",
                exit_code=USAGE,
            )
        if self.options.distil_flow and not (weights.variant.has_flow and self._variant.has_flow):
            without = self._variant if weights.variant.has_flow else weights.variant
            raise TecoError(
                f"{without.name} has no flow net, so no flow can be distilled",
                hint="give --distil-flow 0",
                exit_code=USAGE,
            )
        teacher = generator_of(weights.variant).to(self.device)
        teacher.load_state_dict(weights.tensors)
        if self.options.channels_last:
            teacher.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        return teacher.eval().requires_grad_(False)

    def _enter(self, stage: Stage) -> None:
        """Stand at the start of a stage, with fresh optimizers."""
        self.stage: Stage = stage
        o, generator = self.options, self.generator
        generator.requires_grad_(True)
        learned = generator.fnet if isinstance(generator, Generator) else None
        fnet = [] if learned is None else list(learned.parameters())
        own = {id(p) for p in fnet}
        rest = [p for p in generator.parameters() if id(p) not in own]
        if stage == "flow":
            for parameter in rest:
                parameter.requires_grad_(False)
            groups: list[dict[str, Any]] = [{"params": fnet, "share": 1.0}]
        else:
            groups = [{"params": rest, "share": 1.0}]
            if fnet:
                groups.append({"params": fnet, "share": o.fnet_lr_share})
        if stage == "single":
            assert isinstance(generator, AlignedGenerator)
            generator.spread.requires_grad_(False)  # without a past nothing is spread
        self._peak = {"gan": o.gan_lr, "single": o.single_lr}.get(stage, o.lr)
        self.optimizer = torch.optim.Adam(groups, lr=self._peak, betas=(0.9, o.beta2))
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=o.amp == "fp16")  # pyright: ignore[reportPrivateImportUsage]
        losses = GeneratorLosses(generator, o, stage, self._teacher)
        self._losses: nn.Module = parallel(losses, self.processes)
        self.adversary = None
        if stage == "gan":
            self.adversary = Adversary(
                generator, o, self._perceptual, self.processes, self.device, self._discriminator
            )

    # -- data ---------------------------------------------------------------------------------

    def _data_digest(self) -> str:
        """What the shots are, so that a run is not resumed on others."""
        return hashlib.sha256(repr(self._facts()).encode()).hexdigest()

    def _facts(self) -> list[ShotFacts]:
        if isinstance(self.data, list):
            return [(s.name, tuple(s.frames.shape), s.detail) for s in self.data]
        shots = [(s.name, tuple(s.frames.shape), s.detail) for s in self.data.shots]
        # The folder is named by everything that decides a clip.
        return [*shots, (self.data.folder.name, (len(self.data),), 0.0)]

    def _files(self) -> dict[str, str | None]:
        """What else decides the result: digests of the files that were given, and the ties."""

        def digest(path: Path | None) -> str | None:
            return None if path is None else sha256_of(path)[:12]

        return {
            "init": digest(self.loop.init),
            "teacher": digest(self.loop.teacher) if self._teacher is not None else None,
            "masks": digest(self.loop.masks),
            "discriminator": digest(self.loop.discriminator),
            "ties": None if self._tied is None else format_pattern(self._tied),
            "perceptual": None if self._perceptual is None else self._perceptual.which,
        }

    def _samples(self) -> Yields[Sample]:
        o, p = self.options, self.processes
        part = (p.rank, p.world)
        pinned = self.device.type == "cuda"
        if self._variant.computed_alignment:
            single = self.stage == "single"
            drawn = SampleOptions(
                crop=o.crop, frames=1 if single else o.frames, part=part,
                batch=o.single_batch if single else o.batch,
                short_share=o.short_share if self.stage == "recurrent" else 0.0,
                seed=o.seed * len(STAGES) + STAGES.index(self.stage), with_flow=False,
                realworld=self._real_world, still_share=o.still_share, max_stride=o.max_stride,
                max_still_speed=o.still_speed,
            )  # fmt: skip
            drawn_from = (
                PoolDataset(self.data, drawn, self.total)
                if isinstance(self.data, ClipPool)
                else SequenceDataset(self.data, drawn, self.total)
            )
            return batches(drawn_from, self.iteration, workers=self.loop.workers, pin_memory=pinned)
        assert isinstance(self.data, list)
        if self.stage == "flow":
            sample = SampleOptions(
                crop=o.crop, frames=2, batch=o.flow_batch, still_share=0.5, part=part,
                realworld=self._real_world, max_stride=o.max_stride,
                max_still_speed=o.still_speed, seed=o.seed * 3 + 1,
            )  # fmt: skip
        else:
            wanted = self._variant.has_flow and o.flow_weight > 0
            sample = SampleOptions(
                crop=o.crop, frames=o.frames, batch=o.batch, part=part, with_flow=wanted,
                realworld=self._real_world, still_share=o.still_share, max_stride=o.max_stride,
                max_still_speed=o.still_speed, seed=o.seed * 3 + (2 if self.stage == "gan" else 0),
            )  # fmt: skip
        data = SequenceDataset(self.data, sample, self.total)
        return batches(data, self.iteration, workers=self.loop.workers, pin_memory=pinned)

    # -- one iteration ------------------------------------------------------------------------

    def _set_learning_rate(self) -> None:
        share = learning_rate_share(self.options, self.stage, self.iteration)
        for group in self.optimizer.param_groups:
            group["lr"] = self._peak * share * group["share"]
        if self.adversary is not None:
            self.adversary.set_learning_rate(share)

    def _iterate(self, sample: Sample) -> dict[str, float]:
        self._set_learning_rate()
        batch = Batch.of(sample, self.options.crop, self.device)
        losses, out = self._losses(batch)
        figures: dict[str, float] = {}
        if self.adversary is not None:
            more, figures = self.adversary(batch, out, self.iteration)
            losses |= more
        self._step(losses)
        self._average()
        return {name: float(value.detach()) for name, value in losses.items()} | figures

    def _step(self, losses: Losses) -> None:
        total = torch.stack(list(losses.values())).sum()
        if self.processes.any(not bool(torch.isfinite(total))):
            raise self._diverged(total, "")
        self.optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(total).backward()
        self._scaler.unscale_(self.optimizer)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.options.clip_norm)
        # A scaled gradient may overflow now and then; the scaler leaves that step out and lowers
        # its scale, until lowering does not help either. The norm is the same in every process.
        helpless = not self._scaler.is_enabled() or self._scaler.get_scale() < 1
        if helpless and not torch.isfinite(norm):
            raise self._diverged(total, f" (gradient norm {norm.item():g})")
        self._scaler.step(self.optimizer)
        self._scaler.update()
        if self._masks:
            apply_masks(self.generator, self._masks)

    def _diverged(self, total: torch.Tensor, gradient: str) -> DivergedError:
        own = {"gan": ("gan_lr", "discriminator_lr"), "single": ("single_lr",)}
        names = own.get(self.stage, ("lr",))
        # Half of what is far too high is too high as well; the class has the defaults.
        rates = {n: min(getattr(self.options, n) / 2, getattr(TrainOptions, n)) for n in names}
        lower = " ".join(f"--{n.replace('_', '-')} {value:g}" for n, value in rates.items())
        kept = self.folder.checkpoint.exists()
        checkpoint = "the last checkpoint is kept" if kept else "no checkpoint was written yet"
        where = " and another --out" if kept else ""  # a checkpoint is resumed with its own options
        return DivergedError(
            f"the loss became {total.item():g}{gradient} in stage {self.stage} at iteration "
            f"{self.iteration + 1}; {checkpoint}",
            hint=f"start again with a lower rate{where}, for example {lower}",
        )

    @torch.no_grad()
    def _average(self) -> None:
        # The first iterations would otherwise be averaged with the initial weights for long.
        decay = min(self.options.ema, (self.iteration + 1) / (self.iteration + 10))
        pairs = zip(self.average.parameters(), self.generator.parameters(), strict=True)
        for mean, value in pairs:
            mean.lerp_(value, 1 - decay)

    # -- the run ------------------------------------------------------------------------------

    def run(self, watch: Watch) -> None:
        """Train until done; see :meth:`run_stage`."""
        while self.run_stage(watch):
            pass

    def run_stage(self, watch: Watch) -> bool:
        """Finish the current stage and stand at the start of the next.

        Returns:
            Whether there is a next.

        Raises:
            DivergedError: the loss is no longer finite; the last checkpoint, if any, is kept.
            TecoError: SIGINT or SIGTERM came (a checkpoint was written first), or a file cannot be
                written.
        """
        self._stop = False

        def stop(_signal: int, _frame: FrameType | None) -> None:
            self._stop = True

        # Only at the end of an iteration is there something whole to save.
        before = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            self._iterations(watch)
        finally:
            for which, handler in before.items():
                signal.signal(which, handler)
        later = STAGES[STAGES.index(self.stage) + 1 :]
        following: Stage | None = next(
            (stage for stage in later if self.options.total(stage)), None
        )
        stopped = self._stop and following is not None  # in its last iteration: more is to come
        if following is None:
            self.save(self.stage)
        else:
            ended = self.stage
            # What a stage averaged is where the next one starts.
            self.generator.load_state_dict(self.average.state_dict())
            fresh = self.loop.init is None
            if fresh and ended == "single" and isinstance(self.generator, AlignedGenerator):
                self.generator.quieten_past(PAST_GAIN)
                self.average.load_state_dict(self.generator.state_dict())
            self.iteration, self.elapsed = 0, 0.0
            self._enter(following)
            self.save(ended)
        if stopped:
            raise self._stopped()
        return following is not None

    def _iterations(self, watch: Watch) -> None:
        began = time.monotonic() - self.elapsed
        with closing(self._samples()) as samples:
            for sample in samples:
                losses = self._iterate(sample)
                self.iteration += 1
                self.elapsed = time.monotonic() - began
                last = self.iteration == self.total
                validation = None
                if last or self.iteration % self.loop.validate_every == 0:
                    validation = self._validate()
                done = IterationRecord(self.stage, self.iteration, self.total, losses, validation)
                if validation or self.iteration % LOG_EVERY == 0:
                    self._log(done)
                watch(done)
                # All processes stop at the same iteration, or the others would wait for this one.
                stop = self.processes.any(self._stop)
                if stop or self.iteration % self.loop.checkpoint_every == 0:
                    self.save()
                if stop and not last:
                    raise self._stopped()

    def _validate(self) -> Validation | None:
        if self.validator is None or not self.processes.first:
            return None
        validation = self.validator(
            self.average, perceptual=self.stage == "gan", recurrent=self.stage != "single"
        )
        if self.stage != "flow":
            self.folder.keep_sample(self.stage, self.iteration, self.validator.sample_strip())
        return validation

    def _stopped(self) -> TecoError:
        return TecoError(
            f"stopped in stage {self.stage} at iteration {self.iteration} of {self.total}; "
            f"the checkpoint is in {self.loop.out}",
            hint="the same command goes on from there",
        )

    def _log(self, done: IterationRecord) -> None:
        if not self.processes.first:
            return
        line: dict[str, Any] = {
            "stage": done.stage,
            "iteration": done.iteration,
            "seconds": round(self.elapsed, 1),
            "lr": self.optimizer.param_groups[0]["lr"],
            **done.losses,
        }
        if done.validation:
            line["validation"] = done.validation.as_dict()
        self.folder.log(line)

    # -- checkpoints --------------------------------------------------------------------------

    def save(self, ended: Stage | None = None) -> None:
        """Write the checkpoint and the averaged weights, each beside and renamed.

        Args:
            ended: the stage that has just ended, whose weights are also kept by themselves.
        """
        if not self.processes.first:
            return
        state: dict[str, Any] = {
            "options": asdict(self.options),
            "data": self._data_digest(),
            "shots": self._facts(),
            "files": self._files(),
            "stage": self.stage,
            "iteration": self.iteration,
            "elapsed": self.elapsed,
            "generator": self.generator.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }
        if self.adversary is not None:
            state["adversary"] = self.adversary.state_dict()
        metadata: dict[str, str] = {"stage": ended or self.stage}
        if self._tied is not None:
            metadata[SHARED] = format_pattern(self._tied)
        metadata["iterations"] = str(self.options.total(ended) if ended else self.iteration)
        discriminator = None if self.adversary is None else self.adversary.discriminator
        self.folder.save(state, self.average, metadata, discriminator, ended)

    def resume(self) -> bool:
        """Continue from the folder's checkpoint, if there is one.

        Returns:
            Whether there was one.

        Raises:
            TecoError: it cannot be read, or was made with other options, which are named.
        """
        path = self.folder.checkpoint
        found = self.processes.mean(float(path.exists()))
        if 0 < found < 1:
            raise TecoError(
                f"{path} is there for {found:.0%} of the processes only",
                hint="processes on several machines need one shared --out",
                exit_code=USAGE,
            )
        if not found:
            return False
        state = self.folder.read(self.device)
        self._refuse_changes(path, state)
        with complete(path):
            self._enter(state["stage"])
            self.iteration, self.elapsed = state["iteration"], state["elapsed"]
            self.generator.load_state_dict(state["generator"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self._scaler.load_state_dict(state.get("scaler", {}))
            if self.adversary is not None:
                self.adversary.load_state_dict(state["adversary"])
        if self.processes.first:
            self.folder.forget_after(self.stage, self.iteration)
        return True

    def _refuse_changes(self, path: Path, state: dict[str, Any]) -> None:
        """Raise TecoError where a checkpoint was made with other options, files or clips."""
        files = self._files()
        before: dict[str, Any] = {"init": files["init"]} | state.get(
            "files", files
        )  # once not kept
        different = [
            *changed_options(state["options"], self.options),
            *(
                f"{name} was {before.get(name)}, is now {value}"
                for name, value in files.items()
                if before.get(name) != value
            ),
        ]
        if different:
            raise TecoError(
                f"{path} was made with other options: {'; '.join(different)}",
                hint="give the options it was made with, or another --out",
                exit_code=USAGE,
            )
        if state.get("data", self._data_digest()) != self._data_digest():
            said = what_differs(state.get("shots"), self._facts())
            raise TecoError(
                f"{path} was made with other clips or another clips.toml{said and ': ' + said}",
                hint="give the --data it was made with, or another --out",
                exit_code=USAGE,
            )
