"""``teco train``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from teco.cli.options import (
    THREADS,
    progress,
    put,
    say,
    weights_file,
)

if TYPE_CHECKING:
    from teco.training.options import TrainOptions

_COUNT = click.IntRange(min=1)
_FROM_0 = click.IntRange(min=0)
_WEIGHT = click.FloatRange(min=0)

# Option, type, what --help says of it. The defaults are those of
# teco.training.options.TrainOptions, which imports no torch but is not imported for --help of other
# commands either; None here means "as the recipe or the default says". test_recipes.py holds the
# two lists against each other.
FIELDS: tuple[tuple[str, Any, str], ...] = (
    ("flow-iterations", _FROM_0, "Supervised start of a flow net.  [3000]"),
    ("single-iterations", _FROM_0, "Single frames, of -real and -bd variants.  [0]"),
    ("iterations", _FROM_0, "Recurrent stage: pixels and motion.  [20000]"),
    ("gan-iterations", _FROM_0, "GAN stage after it.  [0]"),
    ("batch", _COUNT, "Sequences an iteration, over all processes.  [4]"),
    ("flow-batch", _COUNT, "Pairs an iteration of the flow stage.  [32]"),
    ("single-batch", _COUNT, "Frames an iteration of the single stage.  [32]"),
    ("short-share", click.FloatRange(0, 1), "Iterations of 4 times as many, shorter ones.  [0]"),
    ("frames", click.IntRange(min=2), "Length of a training sequence.  [6]"),
    ("crop", click.IntRange(min=32), "HR pixels, a multiple of 32.  [128]"),
    ("still-share", click.FloatRange(0, 1), "Sequences that are moved stills.  [0.3]"),
    ("burn-in", _FROM_0, "First frames that only fill the state.  [0]"),
    ("still-speed", _WEIGHT, "The fastest of them, HR pixels a frame.  [10]"),
    ("max-stride", _COUNT, "Largest step between source frames.  [3]"),
    ("real-world", str, "Spoil LR frames, e.g. noise=2,jpeg=40-90,h264=20-35."),
    ("lr", _WEIGHT, "Peak rate of flow and recurrent stage.  [0.0004]"),
    ("single-lr", _WEIGHT, "Of the single stage.  [0.003]"),
    ("gan-lr", _WEIGHT, "Generator's rate in the GAN stage.  [5e-05]"),
    ("discriminator-lr", _WEIGHT, "Discriminator's rate.  [5e-05]"),
    ("schedule", click.Choice(["cosine", "constant", "steps"]), "Of the rates.  [cosine]"),
    ("warm-up", _FROM_0, "First iterations of a stage, rate rising.  [200]"),
    ("cool-down", _FROM_0, "Last iterations of a constant rate, falling.  [0]"),
    ("warp-weight", _WEIGHT, "Photometric loss of the flow.  [0.2]"),
    ("flow-weight", _WEIGHT, "Supervision of the flow.  [0.05]"),
    ("pingpong-weight", _WEIGHT, "GAN stage: forth against back.  [0.5]"),
    (
        "perceptual",
        click.Choice(["auto", "vgg19", "vgg16", "lpips-vgg"]),
        "GAN stage: whose features, or LPIPS on VGG16.  [auto]",
    ),
    ("perceptual-weight", _WEIGHT, "GAN stage.  [0.2]"),
    ("perceptual-frames", _FROM_0, "Frames compared so, 0 for all.  [0]"),
    ("perceptual-shift", _FROM_0, "Pixels by which they move from iteration to iteration.  [0]"),
    ("pattern-weight", _WEIGHT, "GAN stage: against dots and lines in every pixel.  [0]"),
    ("gan-weight", _WEIGHT, "GAN stage.  [0.01]"),
    ("feature-weight", _WEIGHT, "Discriminator feature loss.  [0]"),
    ("distil-output", _WEIGHT, "Distance to the teacher's pictures.  [1 with --teacher]"),
    ("distil-flow", _WEIGHT, "Distance to its flow.  [0.05 with --teacher]"),
    ("distil-feature", _WEIGHT, "Distance to its attention maps.  [0]"),
    ("amp", click.Choice(["bf16", "fp16", "off"]), "Mixed precision.  [bf16]"),
    ("seed", _FROM_0, "Of initial weights and data.  [0]"),
)

WITH_TEACHER = {"distil_output": 1.0, "distil_flow": 0.05}
"""Distillation weights where a teacher is given and nothing is said of them."""


@dataclass(frozen=True, kw_only=True)
class TrainArguments:
    """What was typed beside the fields of the recipe; see --help of each."""

    folders: tuple[Path, ...]
    photos: Path | None
    photo_clips: int
    pool_clips: int
    out: Path | None
    config: str | None
    val_clip: str | None
    val_shrink: float
    val_frames: int
    blocks: int | None
    variant: str | None
    init: str | None
    teacher: str | None
    masks: Path | None
    discriminator: Path | None
    crops: int
    device: str
    compile_: bool
    threads: int | None
    workers: int
    checkpoint_every: int
    validate_every: int


def _field_options(command: Any) -> Any:
    for name, kind, text in reversed(FIELDS):
        command = click.option(f"--{name}", type=kind, help=text)(command)
    return command


@click.command("train")
@click.option(
    "--data",
    "folders",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Clips, frame folders, REDS or LMDB; a clips.toml in it says how each is used. "
    "Repeatable.",
)
@click.option(
    "--photos",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Photographs, which are moved about as a camera would; beside --data or instead of it.",
)
@click.option(
    "--photo-clips",
    type=_COUNT,
    default=200,
    show_default=True,
    help="With --photos: clips to make, 4 MB of the disk each; not of -real variants.",
)
@click.option(
    "--pool-clips",
    type=_COUNT,
    default=600,
    show_default=True,
    help="Of -real variants: clips that are rendered and encoded once, before training begins; a "
    "second of a core and a third of a MB a frame each.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Run folder; a checkpoint in it is continued. "
    "[default: runs/RECIPE, without --config runs/VARIANT]",
)
@click.option(
    "--config", metavar="FILE|NAME", help="Recipe: a TOML file or a shipped one, see --recipes."
)
@click.option("--recipes", is_flag=True, is_eager=True, expose_value=False,
              callback=lambda ctx, _param, value: _show_recipes(ctx) if value else None,
              help="List the shipped recipes and leave.")  # fmt: skip
@click.option("--val", "val_clip", metavar="CLIP", help="Clip to validate on, never trained on.")
@click.option("--val-shrink", type=click.FloatRange(min=1), default=2.0, show_default=True)
@click.option("--val-frames", type=click.IntRange(min=4), default=24, show_default=True)
@click.option("--blocks", type=_COUNT, help="[default: 3, or the recipe's, or those of --init]")
@click.option("--variant", metavar="NAME", help="Any variant by name, instead of --blocks.")
@click.option(
    "--init",
    metavar="FILE|NAME",
    help="Weights to start from: a file, or a shipped model; may lack blocks, -bp, -lk.",
)
@click.option(
    "--teacher", metavar="FILE|NAME", help="Weights to distil from: a file, or a shipped model."
)
@click.option(
    "--masks",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Weights that stay zero, from `teco prune --sparsity`.",
)
@click.option(
    "--discriminator",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="GAN stage: begin with another run's discriminator.safetensors.",
)
@_field_options
@click.option(
    "--crops", type=_FROM_0, default=0, help="Windows cut once from each large picture clip.  [0]"
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--compile/--no-compile", "compile_", default=False, help="Use torch.compile.")
@click.option("--threads", type=THREADS, help="CPU threads of each process.  [all]")
@click.option(
    "--workers", type=click.IntRange(0, 256), default=1, show_default=True, help="Data processes."
)
@click.option("--checkpoint-every", type=_COUNT, default=200, show_default=True)
@click.option("--validate-every", type=_COUNT, default=500, show_default=True)
def command(**typed: Any) -> None:
    """Train a network: flow start or single frames, recurrent stage, GAN stage.

    Low-resolution frames are made on the fly by BD; of variants that end in -real, for ordinary
    clips, by random shrinking and codecs, once, before training begins. Stop it with Ctrl-C and
    give the same command to go on; on the CPU with the same --threads the result is the same bit
    for bit. Weights are in OUT/weights.safetensors (and weights-STAGE.safetensors of each finished
    stage, in the GAN stage discriminator.safetensors), figures in OUT/log.jsonl and, for
    TensorBoard, OUT/tensorboard, pictures in OUT/samples.

    Several GPUs or machines: torchrun --nproc-per-node N -m teco train ... with the same options.
    """
    from teco.core.errors import USAGE, TecoError
    from teco.core.machine import require_extra

    if not typed["folders"] and typed["photos"] is None:
        raise TecoError(
            "there is nothing to train on",
            hint="give --data DIR with clips, --photos DIR with photographs, or both",
            exit_code=USAGE,
        )
    fields = {name.replace("-", "_"): typed.pop(name.replace("-", "_")) for name, _, _ in FIELDS}
    given = {name: value for name, value in fields.items() if value is not None}
    asked = TrainArguments(**typed)
    if asked.variant and asked.blocks is not None:
        raise TecoError("--variant and --blocks say the same thing; give one", exit_code=USAGE)
    for module in ("torch", "safetensors", "tensorboard"):
        require_extra(module, "torch", "training")
    from teco.training.data.realworld import RealWorld
    from teco.training.distributed import process_group
    from teco.training.options import LoopOptions
    from teco.training.run import RunData, train

    init = weights_file(asked.init) if asked.init else None
    teacher = weights_file(asked.teacher) if asked.teacher else None
    options = _options(asked, given, init, teacher)
    RealWorld.parse(options.real_world)  # before anything is decoded
    out = asked.out or run_folder(asked.config, options.variant)
    loop = LoopOptions(
        out=out, checkpoint_every=asked.checkpoint_every, validate_every=asked.validate_every,
        workers=asked.workers, device=asked.device, compile=asked.compile_, init=init,
        teacher=teacher, masks=asked.masks, discriminator=asked.discriminator,
    )  # fmt: skip
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TecoError(f"--out {out} cannot be made: {error.strerror}", exit_code=USAGE) from error
    data = RunData(
        folders=asked.folders, photos=asked.photos, photo_clips=asked.photo_clips,
        pool_clips=asked.pool_clips,
        crops=asked.crops, validation=asked.val_clip,
        validation_shrink=asked.val_shrink, validation_frames=asked.val_frames,
    )  # fmt: skip
    with process_group(asked.device) as processes:
        if processes.first and asked.out is None:
            say(f"run folder: {out}")
        weights = train(options, loop, data, processes, progress)
        if processes.first:
            put(weights)
            say(f"next: teco export --weights {weights}")


def _options(
    asked: TrainArguments, given: dict[str, Any], init: Path | None, teacher: Path | None
) -> TrainOptions:
    """What to compute: what was typed, else the recipe's, else the default."""
    import torch

    from teco.core.allocator import keep_freed_memory
    from teco.core.errors import MACHINE, TecoError
    from teco.core.machine import usable_cores
    from teco.training.options import TrainOptions
    from teco.training.recipe import load_recipe
    from teco_models.checkpoint import load_weights
    from teco_models.variant import Variant

    if asked.device == "cuda" and not torch.cuda.is_available():
        raise TecoError(
            f"--device cuda needs an NVIDIA GPU and driver; torch {torch.__version__} finds none",
            hint="leave --device out to train on the CPU",
            exit_code=MACHINE,
        )
    chosen: dict[str, Any] = load_recipe(asked.config) if asked.config else {}
    threads: int = asked.threads or chosen.get("threads") or usable_cores()
    torch.set_num_threads(threads)
    if asked.device == "cpu":
        keep_freed_memory()
    chosen |= given
    variant = _variant_name(asked.variant, asked.blocks, init, chosen.get("variant"))
    if teacher is not None:
        both = (load_weights(teacher).variant, Variant.parse(variant))
        flows = all(v.has_flow for v in both)
        chosen = {**WITH_TEACHER, **({} if flows else {"distil_flow": 0.0}), **chosen}
    if not Variant.parse(variant).has_flow:
        chosen.setdefault("flow_iterations", 0)
    chosen |= {"variant": variant, "threads": threads}
    return TrainOptions(**chosen)


def run_folder(config: str | None, variant: str) -> Path:
    """Where a run goes that was given no folder.

    Args:
        config: the recipe's name or file, if there is one.
        variant: what is trained.
    """
    return Path("runs") / (Path(config).stem if config else variant)


def _show_recipes(ctx: click.Context) -> None:
    from teco.training.recipe import FOLDER, shipped

    for name in shipped():
        lines = (FOLDER / f"{name}.toml").read_text(encoding="utf-8").splitlines()
        head = " ".join(line.lstrip("# ") for line in lines[: lines.index("")])
        put(f"{name}: {head}")
    ctx.exit()


def _variant_name(
    variant: str | None, blocks: int | None, init: Path | None, recipe: str | None
) -> str:
    """What to train: what the command says, else the weights to start from, else the recipe."""
    from dataclasses import replace

    from teco_models.checkpoint import load_weights
    from teco_models.variant import Variant

    if variant:
        return Variant.parse(variant).name
    if init is not None:
        base = load_weights(init).variant
    else:
        base = Variant.parse(recipe) if recipe else Variant(blocks=3)
    return base.name if blocks is None else replace(base, blocks=blocks).name
