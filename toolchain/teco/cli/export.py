"""``teco export``."""

from __future__ import annotations

from pathlib import Path

import click

from teco.cli.options import Size, say


@click.command("export")
@click.option(
    "--blocks", type=click.IntRange(min=1), help="Take the shipped model with so many blocks."
)
@click.option("--model", metavar="NAME", help="Take the shipped model of this name.")
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Take this .safetensors or published .pth file.",
)
@click.option(
    "--size",
    type=Size(dynamic=True),
    default="dynamic",
    show_default=True,
    help="Static LR size HEIGHTxWIDTH, or dynamic.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=".",
    show_default=True,
    metavar="DIR",
    help="Folder of the result.",
)
@click.option(
    "--half-weights",
    is_flag=True,
    help="Store weights as float16 where that is exact; computes in float32 all the same.",
)
@click.option(
    "--frames",
    type=click.IntRange(min=10),
    default=10,
    show_default=True,
    help="Recurrent frames of the verification.",
)
@click.option(
    "--for",
    "target",
    type=click.Choice(["onnxruntime", "openvino"]),
    default="onnxruntime",
    show_default=True,
    help="Runtime whose fastest form is written; every form runs on every runtime.",
)
@click.option("--force", is_flag=True, help="Replace files of the same name.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest on stdout.")
def command(
    blocks: int | None,
    model: str | None,
    weights: Path | None,
    size: tuple[int, int] | None,
    output: Path,
    half_weights: bool,
    frames: int,
    target: str,
    force: bool,
    as_json: bool,
) -> None:
    """Make an ONNX file and its manifest, verified against PyTorch before it gets its name."""
    from teco.artifact import manifest_path
    from teco.errors import USAGE, TecoError
    from teco.machine import require_extra
    from teco_models import zoo

    if sum(x is not None for x in (blocks, model, weights)) != 1:
        raise TecoError(
            "say what to export with one of --blocks, --model or --weights",
            hint="for example `teco export --blocks 3`",
            exit_code=USAGE,
        )
    source = weights
    if source is None:
        shipped = zoo.entries()
        name = f"teco-x4-b{blocks}-c64" if model is None else model
        entry = zoo.find(name)
        if entry is None:
            raise TecoError(
                f"no shipped model is called {name}",
                hint=f"shipped: {', '.join(e.name for e in shipped)}; "
                "or train one (`teco train`) and give --weights",
                exit_code=USAGE,
            )
        source = entry.weights
    require_extra("torch", "train", "exporting")
    from teco.export import ExportOptions, export_onnx
    from teco_models.checkpoint import load_weights

    loaded = load_weights(source)
    for note in loaded.notes:
        say(f"note: {note}")
    options = ExportOptions(size=size, half_weights=half_weights, frames=frames, target=target)
    path = export_onnx(loaded, output, options, say=say, overwrite=force)
    from teco.artifact import open_model

    manifest = open_model(str(path)).manifest
    assert manifest is not None
    if as_json:
        click.echo(manifest.to_json(), nl=False)
    else:
        click.echo(path)
    parity = manifest.parity
    assert parity is not None
    types = ", ".join(f"{n} {name}" for name, n in manifest.precision_found.items())
    say(
        f"{path.name}: {path.stat().st_size / 1e6:.1f} MB, tensors: {types}; largest difference "
        f"from PyTorch {parity.max_abs:.1e} over {parity.frames} recurrent frames"
    )
    say(f"manifest: {manifest_path(path)}")
    say(f"next: teco bench {path}")
