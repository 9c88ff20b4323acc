"""Train the shipped family from clips: teacher, pruned and distilled networks, their GAN forms.

    python scripts/train_family.py --data clips --sharp sharp --val walk.mp4 --out runs
    python scripts/train_family.py ... --small              # without a GPU, in a night
    python scripts/train_family.py ... --dry-run            # print the commands and leave
    python scripts/train_family.py ... --only b3,b3-gan     # these steps

Every step is a ``teco`` command that a user could type; this file is their order and their numbers.
A step that is done is skipped, and one that was stopped goes on, so the same command continues the
family after a break, by ``steps.json`` in --out (:mod:`teco.reproduction.steps`). In an older
folder, which has none, steps that are done are refused, as nothing tells which command made them,
and so they are where another command made them: take the steps that are left with --only, which
read what is there. The model cards name the steps by the names used here.

--sharp names a folder with the sharpest of the clips, from which all learns that makes use of the
past: on clips whose detail is gone or flickers (compression), a network learns that the past
is not to be trusted, and every further iteration takes from what it gains on a clean clip.

What is shipped ran from ``b10`` on with a GPU, the steps before on two Zen 4 cores: ``base`` under
two hours, ``live``'s four about half an hour each on one. Beside an H200 and 16 cores, five of the
others side by side take two minutes each. ``--small`` gives them what two cores finish in a night.
What follows the GAN forms (:data:`AFTER_GAN`) ran on two CPU cores, ten minutes a round.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from teco.core.errors import TecoError
from teco.reproduction.steps import Journal, Step, run_steps

KIND = "c64-bp-lk"
STUDENTS = (7, 5, 3, 1)

# What slow hand-held footage of 30 frames a second looks like; larger steps teach a network to
# distrust its past.
SLOW = ("--max-stride", "1", "--still-speed", "3")
SEQUENCE = ("--frames", "14", "--burn-in", "8", "--still-share", "0.4", *SLOW)
NO_FLOW = ("--flow-iterations", "0")


@dataclass(frozen=True)
class Schedule:
    """How long what follows ``b10-start`` trains, and on what.

    Attributes:
        machine: where every training from ``b10`` to the first GAN forms runs, and on how many
            threads; with others a step that is done stays done.
        teacher, student, scratch: options of the recurrent stage.
        gan: options of the GAN stage, its length apart.
        gan_iterations: of students, and of the teacher; over their last fifth the rate falls.
        ranked: students cut by measured sensitivity; the others keep the first blocks, as the
            paper does.
    """

    machine: tuple[str, ...]
    teacher: tuple[str, ...]
    student: tuple[str, ...]
    scratch: tuple[str, ...]
    gan: tuple[str, ...]
    gan_iterations: tuple[int, int]
    ranked: tuple[int, ...]

    def of_gan(self, blocks: int) -> tuple[str, ...]:
        """Options of one network's GAN stage."""
        count = self.gan_iterations[blocks == TEACHER]
        length = ("--gan-iterations", str(count), "--cool-down", str(count // 5))
        return (*NO_FLOW, "--iterations", "0", *length, *self.gan)


TEACHER = 10

# Beside a GPU the flow's supervision (classical flow, on the CPU) costs more than everything else,
# and what starts from b10-start has had it.
_GPU = ("--flow-weight", "0", *SEQUENCE)
_GPU_600 = ("--iterations", "600", "--batch", "16", "--warm-up", "50", *_GPU)
_PERCEPTUAL = ("--perceptual", "vgg16", "--perceptual-weight", "1", "--schedule", "constant")
FULL = Schedule(
    machine=("--device", "cuda"),
    teacher=("--iterations", "800", "--lr", "4e-4", "--batch", "32", "--warm-up", "50", *_GPU),
    student=(*_GPU_600, "--lr", "3e-4"),
    scratch=(*_GPU_600, "--lr", "4e-4"),
    gan=(
        *("--batch", "8", "--frames", "5", "--warm-up", "20", *_PERCEPTUAL),
        *("--gan-lr", "2e-4", "--discriminator-lr", "2e-4", "--flow-weight", "0"),
        *("--perceptual-frames", "3", *SLOW),
    ),
    gan_iterations=(400, 450),
    # Time on the GPU was short.
    ranked=(7,),
)
_CPU_60 = ("--iterations", "60", "--batch", "2", "--warm-up", "10", *SEQUENCE)
SMALL = Schedule(
    machine=(),
    teacher=("--iterations", "60", "--lr", "1e-4", "--batch", "2", "--warm-up", "10", *SEQUENCE),
    student=(*_CPU_60, "--lr", "2e-4"),
    scratch=(*_CPU_60, "--lr", "4e-4"),
    gan=(
        *("--batch", "2", "--frames", "5", "--warm-up", "20", *_PERCEPTUAL),
        *("--gan-lr", "3e-4", "--discriminator-lr", "2e-4"),
        *("--perceptual-frames", "1", *SLOW),
    ),
    gan_iterations=(200, 200),
    ranked=STUDENTS,
)


@dataclass(frozen=True)
class Round:
    """A further GAN stage on a CPU, against a discriminator that has learned already.

    Attributes:
        name: of the step.
        start: step whose weights it goes on from.
        weight: of the adversarial loss.
        critic: step whose discriminator it begins with; None for a fresh one.
        iterations: of two sequences each.
        rate: of the discriminator.
        seed: of the data.
    """

    name: str
    start: str
    weight: str
    critic: str | None = None
    iterations: int = 400
    rate: str = "1e-4"
    seed: int = 0


@dataclass(frozen=True)
class Mean:
    """The mean of several steps' weights.

    Attributes:
        name: of the step.
        shares: step -> share.
    """

    name: str
    shares: Mapping[str, str]


_ROUND = (
    *("--batch", "2", "--frames", "5", "--schedule", "constant", "--warm-up", "10"),
    *("--cool-down", "60", "--gan-lr", "2e-4", "--flow-weight", "0", "--perceptual", "vgg16"),
    *("--perceptual-weight", "1", "--perceptual-frames", "2", "--still-share", "0.3", *SLOW),
)

_B5_ROUNDS = {"b5-gan2": "1", "b5-gan3": "1", "b5-gan4": "1"}
AFTER_GAN: tuple[Round | Mean, ...] = (
    # A fresh discriminator is awake after 600 iterations; all later rounds begin with one that is.
    Round("b5-gan2", "b5-gan", "0.03", iterations=800, rate="2e-4"),
    Round("b5-gan3", "b5-gan2", "0.1", "b5-gan2"),
    Round("b7-gan2", "b7-gan", "0.2", "b5-gan3"),
    Round("b10-gan2", "b10-gan", "0.2", "b7-gan2"),
    Mean("b10-gan-blend", {"b10-gan": "1", "b10-gan2": "1"}),
    Mean("b7-gan-mean", {"b7-gan": "1", "b7-gan2": "1"}),
    Round("b7-gan3", "b7-gan-mean", "0.1", "b7-gan2", seed=1),
    Mean("b7-gan-mean2", {"b7-gan3": "1.4", "b7-gan": "1", "b7": "0.3"}),
    Round("b7-gan4", "b7-gan-mean2", "0.15", "b7-gan3", seed=6),
    Mean("b7-gan-blend", {"b7-gan4": "1", "b7-gan3": "1", "b7": "0.4"}),
    Round("b5-gan4", "b5-gan3", "0.1", "b5-gan3", seed=1),
    Mean("b5-gan-mean", _B5_ROUNDS),
    Round("b5-gan5", "b5-gan-mean", "0.2", "b10-gan2", seed=2),
    Mean("b5-gan-blend", {"b5-gan5": "2", **_B5_ROUNDS, "b5": "0.8"}),
    Round("b3-gan2", "b3-gan", "0.03", "b5-gan2"),
    Round("b3-gan3", "b3-gan2", "0.2", "b5-gan3"),
    Mean("b3-gan-mean", {"b3-gan": "1", "b3-gan3": "1"}),
    Round("b3-gan4", "b3-gan-mean", "0.2", "b10-gan2", seed=1),
    Round("b3-gan5", "b3-gan4", "0.15", "b3-gan4", iterations=350, seed=3),
    Mean("b3-gan-blend", {"b3-gan5": "1", "b3-gan4": "1", "b3": "0.2"}),
)
"""What the shipped GAN forms went through after the first, in the order in which it was done."""


def steps(
    data: Path, sharp: Path, out: Path, val: str, shrink: str, schedule: Schedule = FULL
) -> Iterator[Step]:
    """All steps, in an order in which each finds what it needs."""

    def step(name: str, *command: str, makes: Path, machine: tuple[str, ...] = ()) -> Step:
        # All weights that it names and does not make are an earlier step's.
        named = (Path(word) for word in command if word.endswith(".safetensors"))
        needs = tuple(path for path in named if path != makes)
        return Step(name=name, command=command, makes=(makes,), needs=needs, machine=machine)

    def train(
        name: str,
        *arguments: str,
        stage: str = "recurrent",
        clips: Path = data,
        machine: tuple[str, ...] = (),
    ) -> Step:
        common = ("--data", str(clips), "--out", str(out / name))
        validation = ("--val", val, "--val-shrink", shrink)
        makes = out / name / f"weights-{stage}.safetensors"
        command = ("train", *common, *arguments, *validation)
        return step(name, *command, makes=makes, machine=machine)

    means = {one.name for one in AFTER_GAN if isinstance(one, Mean)}

    def weights(name: str) -> str:
        return str(
            out / f"{name}.safetensors" if name in means else out / name / "weights.safetensors"
        )

    begin = ("--blocks", "3", "--flow-iterations", "3000", "--iterations", "5500")
    yield train("base", *begin)
    yield train(
        "b10-start",
        *("--init", weights("base"), "--variant", f"teco-x4-b{TEACHER}-{KIND}", *NO_FLOW),
        *("--iterations", "240", "--lr", "1e-4", "--batch", "2", *SEQUENCE),
        clips=sharp,
    )
    s = schedule
    start = ("--init", weights("b10-start"))
    yield train("b10", *start, *NO_FLOW, *s.teacher, machine=s.machine)
    for blocks in STUDENTS:
        cut = out / f"b{blocks}-cut.safetensors"
        ranked = ("--clip", val, "--shrink", shrink, "--frames", "5")
        yield step(
            f"b{blocks}-cut",
            *("prune", weights("b10"), "--blocks", str(blocks)),
            *(ranked if blocks in s.ranked else ()),
            *("-o", str(cut)),
            makes=cut,
        )
        start = ("--init", str(cut), "--teacher", weights("b10"))
        yield train(f"b{blocks}", *start, *NO_FLOW, *s.student, machine=s.machine)
        # What distillation is worth: the same network and the same iterations, from nothing.
        variant = ("--variant", f"teco-x4-b{blocks}-{KIND}")
        yield train(f"b{blocks}-scratch", *variant, *NO_FLOW, *s.scratch, machine=s.machine)
    for blocks in (TEACHER, *STUDENTS):
        start = ("--init", weights(f"b{blocks}"))
        gan = s.of_gan(blocks)
        yield train(f"b{blocks}-gan", *start, *gan, stage="gan", machine=s.machine)
    for one in AFTER_GAN:
        if isinstance(one, Mean):
            parts = (weights(name) for name in one.shares)
            mean = out / f"{one.name}.safetensors"
            shares = ",".join(one.shares.values())
            command = ("blend", *parts, "--shares", shares, "-o", str(mean))
            yield step(one.name, *command, makes=mean)
            continue
        critic = out / (one.critic or "") / "discriminator.safetensors"
        yield train(
            one.name,
            *("--init", weights(one.start), *NO_FLOW, "--iterations", "0"),
            *("--gan-iterations", str(one.iterations), "--gan-weight", one.weight),
            *("--discriminator-lr", one.rate, "--seed", str(one.seed)),
            *(("--discriminator", str(critic)) if one.critic else ()),
            *_ROUND,
            stage="gan",
        )
    live = ("--variant", "teco-x4-b2-c32-f0-shuffle", *NO_FLOW)
    yield train(
        "live1",
        *(*live, "--iterations", "13000", "--schedule", "constant", "--cool-down", "1000"),
        *("--batch", "4", "--frames", "8", "--lr", "6e-4"),
    )
    fine = ("--batch", "4", "--still-share", "0.3")
    yield train(
        "live2",
        *("--init", weights("live1"), *NO_FLOW, "--iterations", "9500", "--frames", "8"),
        *("--lr", "5e-4", "--max-stride", "2", "--still-speed", "6", *fine),
    )
    yield train(
        "live3",
        *("--init", weights("live2"), *NO_FLOW, "--iterations", "8000", "--frames", "10"),
        *("--lr", "5e-4", "--max-stride", "1", "--still-speed", "4", *fine),
    )
    yield train(
        "live",
        *("--init", weights("live3"), *NO_FLOW, "--iterations", "1500", "--frames", "10"),
        *("--lr", "1e-4", "--batch", "4", "--still-share", "0.4", *SLOW),
        clips=sharp,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of training clips")
    parser.add_argument("--sharp", type=Path, help="folder of the sharpest of them [--data]")
    parser.add_argument("--val", required=True, help="clip to validate on, never trained on")
    parser.add_argument("--val-shrink", default="1.5")
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--small", action="store_true", help="what a CPU finishes in a night")
    parser.add_argument("--only", help="names of steps, with commas between")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and leave")
    arguments = parser.parse_args()
    sharp = arguments.sharp or arguments.data
    options = (sharp, arguments.out, arguments.val, arguments.val_shrink)
    schedule = SMALL if arguments.small else FULL
    chosen = list(steps(arguments.data, *options, schedule))
    if arguments.only:
        names = arguments.only.split(",")
        known = {step.name for step in chosen}
        if unknown := [name for name in names if name not in known]:
            parser.error(f"no step is called {unknown[0]!r}; steps: {', '.join(sorted(known))}")
        chosen = [step for step in chosen if step.name in names]
    if arguments.dry_run:
        for step in chosen:
            print(f"# {step.name}\n{step.text}")
        return
    try:
        run_steps(
            chosen, Journal(arguments.out / "steps.json"), lambda text: print(text, flush=True)
        )
    except TecoError as error:
        print(f"{error.message}; {error.hint}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error


if __name__ == "__main__":
    main()
