"""The study's table 3 as a chain of commands: train, prune, fine-tune each, measure.

The study (:data:`teco.evaluation.table.published.STUDY`) trains on REDS and tests on ToS3 and Vid4,
300,000 iterations a model. What it does not say, such as how they fall to the two stages, is in the
recipe ``paper``, whose words name it. The small form is the same chain with so little training that
it shows nothing but that every step works.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from teco.benchmark import SHIPPED_CLIP
from teco.core.errors import USAGE, TecoError
from teco.evaluation.table.published import STUDY_ROWS
from teco.reproduction.hours import MEASURED
from teco.reproduction.steps import Step
from teco.training.recipe import load_recipe
from teco_calibration.metrics.lpips_backbone import find_backbone

VANILLA, *PRUNED = (row.blocks for row in STUDY_ROWS)
"""Residual blocks of the table: those of the network that is pruned, and what is left of it."""

RECIPE = "paper"

SMALL = {"iterations": 6, "gan_iterations": 3}
_SMALL = (
    *("--batch", "1", "--frames", "4", "--crop", "64"),
    # VGG costs more than everything else together, and is fetched.
    *("--perceptual-weight", "0"),
)
"""Options of the small form besides: every code path but VGG's, in seconds."""

MEASURED_ITERATIONS = {
    "cpu": {"iterations": 4, "gan_iterations": 2},
    "cuda": {"iterations": 200, "gan_iterations": 100},
}
"""Of the run that is timed; a GPU's first ones choose algorithms."""


@dataclass(frozen=True)
class Data:
    """What somebody has to bring.

    Attributes:
        name: of the set.
        path: where it is looked for.
        contents: what it is, how large, and how it lies in its folder.
        source: where it is to be had.
    """

    name: str
    path: Path
    contents: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What is asked for.

    Attributes:
        out: folder of everything that is made.
        data: to train on; None for ``REDS`` of the working folder.
        tests: sets or clips of the table; none for ``ToS3`` and ``Vid4``. Of the short form the
            shipped clip is both.
        blocks: what is left of the 10.
        device: ``"cpu"`` or ``"cuda"``.
        workers: data processes of a training.
        small: the short form.
    """

    out: Path
    data: Path | None = None
    tests: tuple[Path, ...] = ()
    blocks: tuple[int, ...] = tuple(PRUNED)
    device: str = "cpu"
    workers: int = 1
    small: bool = False

    def __post_init__(self) -> None:
        if not self.blocks or len(set(self.blocks)) < len(self.blocks):
            raise TecoError("blocks are named twice or not at all", exit_code=USAGE)
        if bad := [b for b in self.blocks if not 1 <= b < VANILLA]:
            raise TecoError(
                f"{bad[0]} blocks cannot be left of {VANILLA}",
                hint=f"--blocks {','.join(map(str, PRUNED))} is the table; the study's text has 9 "
                "besides",
                exit_code=USAGE,
            )


def needed(protocol: Protocol) -> tuple[Data, ...]:
    """What the chain reads that it does not make."""
    p = protocol
    if p.small:
        clips = p.data or SHIPPED_CLIP.parent
        tests = p.tests or (SHIPPED_CLIP,)
        return (
            Data("clips", clips, "clips to train on", "teco, which ships one"),
            *(
                Data("test", path, "a clip to measure on", "teco, which ships one")
                for path in tests
            ),
        )
    reds = Data(
        "REDS", p.data or Path("REDS"),
        "240 + 30 clips of 100 PNG of 1280x720, about 40 GB, in train/train_sharp/000 and "
        "val/val_sharp/000 as train_sharp.zip and val_sharp.zip unpack",
        "https://seungjunnah.github.io/Datasets/reds.html",
    )  # fmt: skip
    port = "https://github.com/skycrapers/TecoGAN-PyTorch, Testing, step 1 (Ground-Truth)"
    known = {
        "ToS3": "3 clips of PNG (bridge, face, room) in GT/bridge",
        "Vid4": "4 clips, 171 PNG (calendar, city, foliage, walk), about 0.1 GB, in GT/calendar",
    }
    tests = p.tests or tuple(map(Path, known))
    return (
        reds,
        *(Data(t.name, t, known.get(t.name, "clips to measure on"), port) for t in tests),
    )


def check(protocol: Protocol) -> None:
    """Raise TecoError where something is missing that the chain reads, before its first day."""
    for data in needed(protocol):
        if not data.path.exists():
            raise TecoError(
                f"{data.name} is not at {data.path}: {data.contents}",
                hint=f"it is to be had from {data.source}; --data and --test say where yours lies, "
                "--dry-run lists everything",
                exit_code=USAGE,
            )


def steps(protocol: Protocol) -> list[Step]:
    """The chain, in order."""
    p = protocol
    trained, *tests = (data.path for data in needed(p))
    clips, validation = _parts(trained)
    found: list[Step] = []
    if not p.small:
        found += _networks()
    machine = ("--device", p.device, "--workers", str(p.workers))
    weights: dict[int, Path] = {}

    def train(blocks: int, *start: str, needs: tuple[Path, ...] = ()) -> None:
        run = p.out / f"b{blocks}"
        weights[blocks] = run / "weights-gan.safetensors"
        length = (*_typed(SMALL), *_SMALL) if p.small else ()
        found.append(
            Step(
                name=run.name,
                command=(
                    *("train", "--config", RECIPE, *start, *length),
                    *("--data", str(clips), *validation, "--out", str(run)),
                ),
                makes=(weights[blocks],), needs=needs, machine=machine,
                iterations=_lengths(SMALL if p.small else {}),
            )
        )  # fmt: skip

    train(VANILLA)
    for blocks in p.blocks:
        cut = p.out / f"b{blocks}-cut.safetensors"
        found.append(
            Step(
                name=f"b{blocks}-cut",
                command=(
                    *("prune", str(weights[VANILLA]), "--blocks", str(blocks)),
                    *("--order", "plain", "-o", str(cut)),
                ),
                makes=(cut,), needs=(weights[VANILLA],),
            )
        )  # fmt: skip
        train(blocks, "--init", str(cut), needs=(cut,))
    table, record = p.out / "table.md", p.out / "table.json"
    found.append(
        Step(
            name="table",
            command=(
                "table",
                *(word for path in tests for word in ("--data", str(path))),
                *(word for path in weights.values() for word in ("--model", str(path))),
                *("--metrics", "psnr,lpips,tof", "--no-time", *(("--frames", "8") * p.small)),
                *("--markdown", str(table), "--json", str(record)),
            ),
            makes=(table, record), needs=tuple(weights.values()),
        )
    )  # fmt: skip
    return found


def measuring(protocol: Protocol) -> list[Step]:
    """A short run of the recipe on the shipped clip, whose log tells the pace of this machine."""
    p = protocol
    name = MEASURED.format(device=p.device)
    run = p.out / name
    length = _typed(MEASURED_ITERATIONS[p.device])
    clips = ("--data", str(SHIPPED_CLIP.parent), "--out", str(run))
    return [
        *_networks(),
        Step(
            name=name,
            command=("train", "--config", RECIPE, *length, *clips),
            makes=(run / "weights-gan.safetensors",),
            machine=("--device", p.device, "--workers", str(p.workers)),
        ),
    ]


def _networks() -> list[Step]:
    """What fetches the networks of losses and measures (64 MB), where one is not in the cache."""
    if all(find_backbone(name) is not None for name in ("alexnet", "vgg16")):
        return []
    return [Step(name="networks", command=("fetch", "lpips", "--vgg"))]


def _typed(options: dict[str, int]) -> tuple[str, ...]:
    return tuple(
        word
        for name, value in options.items()
        for word in (f"--{name.replace('_', '-')}", str(value))
    )


def _lengths(changed: dict[str, int]) -> dict[str, int]:
    """Stage -> iterations of the recipe, or as changed."""
    recipe = load_recipe(RECIPE) | changed
    return {"recurrent": recipe["iterations"], "gan": recipe["gan_iterations"]}


def _parts(data: Path) -> tuple[Path, Sequence[str]]:
    """Where to train, and options that validate: REDS's own two parts, else all and none."""
    for train in ("train/train_sharp", "train_sharp"):
        if (data / train).is_dir() or (train.startswith("train/") and not data.exists()):
            first = data / train.replace("train", "val") / "000"
            options = ("--val", str(first), "--val-shrink", "1", "--validate-every", "5000")
            return data / train, options
    return data, ()
