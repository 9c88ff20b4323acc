"""``teco blend``."""

from __future__ import annotations

from pathlib import Path

import click

from teco.cli.options import put, say, weights_file

UNRELATED = 0.7
"""Two networks from different random weights are 1.4 apart, the two forms of a shipped network 0.04
to 0.06, and 5 blocks cut from a teacher and from the same one trained further 0.41."""


@click.command("blend")
@click.argument("weights", nargs=-1, required=True, metavar="WEIGHTS|NAME...")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="OUT.safetensors",
    help="The blended weights.",
)
@click.option(
    "--shares",
    metavar="S,S,...",
    help="Of each, divided by their sum; below 0 leads away from it. [default: equal]",
)
@click.option("--force", is_flag=True, help="Replace a file of the same name.")
def command(weights: tuple[str, ...], output: Path, shares: str | None, force: bool) -> None:
    """Mix networks that were trained on from the same weights: the mean of their weights.

    Between a form trained for fidelity and its -gan form: how much texture is invented. Of several
    GAN forms of one network: often better than each. Their distance says whether they are related.
    """
    from teco.core.errors import USAGE, TecoError
    from teco.core.machine import require_extra

    try:
        numbers = [1.0] * len(weights) if shares is None else [float(s) for s in shares.split(",")]
    except ValueError as error:
        raise TecoError(
            f"--shares {shares} is no list of numbers", hint="such as --shares 0.7,0.3",
            exit_code=USAGE,
        ) from error  # fmt: skip
    for module in ("torch", "safetensors"):
        require_extra(module, "torch", "blending")
    from teco.pruning.structured import check_output
    from teco_models.checkpoint import build_any, load_weights, save_weights
    from teco_models.compress.blend import blend, distance

    files = [weights_file(spec) for spec in weights]
    check_output(output, files, masks=False, overwrite=force)
    parts = [load_weights(file) for file in files]
    blended = blend(parts, numbers)
    for spec, part in zip(weights[1:], parts[1:], strict=True):
        far = distance(parts[0], part)
        say(f"{spec} is {far:.1%} of {weights[0]}'s length away from it")
        if far > UNRELATED:
            say("note: networks so far apart have no common start, and their mean does not work")
    try:
        save_weights(output, build_any(blended), metadata=blended.metadata)
    except OSError as error:
        raise TecoError(f"{output} could not be written: {error.strerror or error}") from error
    put(output)
    say(f"next: teco eval --model {output} --clip CLIP")
