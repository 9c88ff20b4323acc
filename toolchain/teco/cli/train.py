"""``teco train``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from teco.cli.options import progress, say


@click.command("train")
@click.option(
    "--data",
    "folders",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of clips; a clips.toml in it says how each is used.",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Run folder; a checkpoint in it is continued.",
)
@click.option("--val", "val_clip", metavar="CLIP", help="Clip to validate on, never trained on.")
@click.option("--val-shrink", type=float, default=2.0, show_default=True)
@click.option("--val-frames", type=click.IntRange(min=4), default=24, show_default=True)
@click.option("--blocks", type=click.IntRange(min=1), help="[default: 3, or those of --init]")
@click.option("--variant", metavar="NAME", help="Any variant by name, instead of --blocks.")
@click.option(
    "--init", type=click.Path(path_type=Path), metavar="FILE", help="Weights to start from."
)
@click.option("--iterations", type=click.IntRange(min=1), default=20_000, show_default=True)
@click.option(
    "--flow-iterations",
    type=click.IntRange(min=0),
    default=3_000,
    show_default=True,
    help="Supervised start of the flow net.",
)
@click.option("--batch", type=click.IntRange(min=1), default=4, show_default=True)
@click.option("--flow-batch", type=click.IntRange(min=1), default=32, show_default=True)
@click.option(
    "--frames",
    type=click.IntRange(min=2),
    default=6,
    show_default=True,
    help="Length of a training sequence.",
)
@click.option(
    "--crop", type=click.IntRange(min=32), default=128, show_default=True, help="HR pixels."
)
@click.option("--lr", type=float, default=4e-4, show_default=True)
@click.option("--warp-weight", type=float, default=0.2, show_default=True)
@click.option("--flow-weight", type=float, default=0.05, show_default=True)
@click.option(
    "--bf16/--no-bf16", default=True, help="Autocast convolutions to bfloat16. [default: on]"
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads. [default: all]")
@click.option(
    "--workers", type=click.IntRange(min=0), default=1, show_default=True, help="Data processes."
)
@click.option("--checkpoint-every", type=click.IntRange(min=1), default=200, show_default=True)
@click.option("--validate-every", type=click.IntRange(min=1), default=500, show_default=True)
def command(
    folders: tuple[Path, ...],
    out: Path,
    val_clip: str | None,
    val_shrink: float,
    val_frames: int,
    blocks: int | None,
    variant: str | None,
    init: Path | None,
    device: str,
    threads: int | None,
    workers: int,
    checkpoint_every: int,
    validate_every: int,
    **fields: Any,
) -> None:
    """Train a network: a supervised start of the flow net, then the recurrent stage.

    Low-resolution frames are made on the fly by BD. Stop it with Ctrl-C and give the same command
    to go on; on the CPU with the same --threads the result is the same bit for bit. Weights are in
    OUT/weights.safetensors, figures in OUT/log.jsonl and, for TensorBoard, OUT/tensorboard.
    """
    from teco.errors import USAGE, TecoError
    from teco.machine import require_extra, usable_cores
    from teco_models.variant import Variant

    if fields["crop"] % 32:
        raise TecoError(
            f"--crop {fields['crop']} is no multiple of 32",
            hint=f"use {max(32, fields['crop'] // 32 * 32)}",
            exit_code=USAGE,
        )
    if variant and blocks is not None:
        raise TecoError("--variant and --blocks say the same thing; give one", exit_code=USAGE)
    for module in ("torch", "safetensors", "tensorboard"):
        require_extra(module, "train", "training")
    import torch

    from teco.train.loop import CHECKPOINT, WEIGHTS, LoopOptions, Progress, Trainer, TrainOptions
    from teco.train.prepare import prepare
    from teco.train.tensorboard import Board
    from teco.train.validate import Validator, read_frames
    from teco_models.checkpoint import load_weights

    if device == "cuda" and not torch.cuda.is_available():
        raise TecoError(
            f"--device cuda needs an NVIDIA GPU and driver; torch {torch.__version__} finds none",
            hint="leave --device out to train on the CPU",
            exit_code=3,
        )
    if variant:
        name = Variant.parse(variant).name
    elif init is not None and blocks is None:
        name = load_weights(init).variant.name
    else:
        name = Variant(blocks=blocks or 3).name
    threads = threads or usable_cores()
    torch.set_num_threads(threads)
    options = TrainOptions(variant=name, threads=threads, **fields)
    loop = LoopOptions(
        out=out, checkpoint_every=checkpoint_every, validate_every=validate_every,
        workers=workers, device=device, init=init,
    )  # fmt: skip
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TecoError(f"--out {out} cannot be made: {error.strerror}", exit_code=USAGE) from error
    shots = prepare(list(folders), out / "frames", say)
    say(f"{len(shots)} shots, {sum(len(s.frames) for s in shots)} frames")
    validator = None
    if val_clip is not None:
        validator = Validator(read_frames(val_clip, val_shrink, val_frames))
    trainer = Trainer(options, loop, shots, validator)
    if trainer.resume():
        say(
            f"going on from {out / CHECKPOINT}: {trainer.stage} {trainer.iteration}/{trainer.total}"
        )
    with Board(out / "tensorboard") as board:
        for stage in ("flow", "recurrent"):
            if trainer.stage != stage:
                continue
            with progress(f"{name} {stage}", "iterations") as show:

                def report(p: Progress) -> None:
                    show(p.iteration, p.total)
                    board.add(p)
                    if p.validation:
                        say(f"{p.stage} {p.iteration}: {describe(p)}")

                trainer.run_stage(report)
    click.echo(out / WEIGHTS)
    say(f"next: teco export --weights {out / WEIGHTS}")


def describe(progress: Any) -> str:
    """A validation in one line."""
    v = progress.validation
    return (
        f"PSNR {v.psnr:.2f} dB ({v.gain:+.2f} over bicubic), temporal gain {v.temporal_gain:+.3f} "
        f"dB, mean flow {v.mean_flow:.2f} px, still error {v.still_error:.2f} of zero flow's"
    )
