"""``teco info``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from teco.cli.options import Size, put, say

if TYPE_CHECKING:
    from teco.model.contract import StreamContract
    from teco.model.manifest import Manifest
    from teco_models.variant import Variant


@click.command("info")
@click.argument("target", metavar="[NAME|FILE]", required=False)
@click.option("--blocks", type=click.IntRange(min=1), help="A variant by its residual blocks.")
@click.option("--channels", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--flow-channels", type=click.IntRange(min=1), default=32, show_default=True)
@click.option(
    "--tail",
    type=click.Choice(["transposed", "shuffle", "egvsr"]),
    default="transposed",
    show_default=True,
)
@click.option("--degradation", type=click.Choice(["bd", "bi"]), default="bd", show_default=True)
@click.option(
    "--size",
    type=Size(),
    default="180x320",
    show_default=True,
    help="LR size HEIGHTxWIDTH for MACs and memory.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    target: str | None,
    blocks: int | None,
    channels: int,
    flow_channels: int,
    tail: Any,
    degradation: Any,
    size: tuple[int, int],
    as_json: bool,
) -> None:
    """Say what a model is and what one step costs.

    Give a shipped model's name, an .onnx or weights file, an engine (.plan), a variant's name such
    as teco-x4-b3-c64, or --blocks and the other fields of a variant.
    """
    from teco.core.errors import USAGE, TecoError
    from teco.exporting.request import shipped_with
    from teco_models.variant import Variant

    manifest: Manifest | None = None
    if (target is None) == (blocks is None):
        raise TecoError(
            "say what to describe: a NAME or FILE, or --blocks",
            hint="for example `teco info --blocks 3 --size 134x320`",
            exit_code=USAGE,
        )
    if target is not None and Path(target).suffix.lower() == ".plan":
        _engine(Path(target), as_json)
        return
    if target is None:
        assert blocks is not None
        variant = Variant(
            blocks=blocks, channels=channels, flow_channels=flow_channels, tail=tail,
            degradation=degradation,
        )  # fmt: skip
        if (entry := shipped_with(blocks)) is not None:
            say(f"note: this is the paper's network; the shipped one is `teco info {entry.name}`")
    else:
        variant, manifest = _look_up(target)
    facts = cost_record(variant, size)
    if as_json:
        described = {"manifest": manifest.as_dict()} if manifest is not None else {}
        put(json.dumps(facts | described, indent=2))
        return
    _print(facts, variant)
    if manifest is not None:
        _print_manifest(manifest)


def _look_up(target: str) -> tuple[Variant, Manifest | None]:
    from teco.model.opening import open_model
    from teco_models import zoo
    from teco_models.errors import ModelError
    from teco_models.variant import Variant

    if zoo.find(target) is None and not Path(target).suffix:
        try:
            return Variant.parse(target), None
        except ModelError:
            pass  # not a variant's name either: let open_model say what it expected
    model = open_model(target)
    if model.weights is not None and model.onnx is None:
        from teco_models.checkpoint import load_weights

        for note in load_weights(model.weights).notes:
            say(f"note: {note}")
    return model.variant, model.manifest


def _engine(path: Path, as_json: bool) -> None:
    """An engine's manifest, after the two have been checked against each other."""
    from teco.model.engine.preflight import read

    manifest = read(path)
    if as_json:
        put(manifest.to_json(), nl=False)
        return
    model = manifest.model
    sizes = manifest.size
    if sizes == "dynamic":
        low, usual, high = manifest.profile
        sizes = f"{low} to {high}, fastest at {usual}"
    gpus = ", ".join(f"SM {sm}" for sm in manifest.compute_capabilities)
    put(
        f"{path.name}: {manifest.product} {manifest.runtime_version} engine of {model.variant}, "
        f"{manifest.length / 2**20:.1f} MiB"
    )
    put(f"runs on: {gpus}; built on {manifest.os} {manifest.arch}")
    put(f"frames: {sizes} (height x width, LR)")
    put(f"precision, parsed network: {manifest.proof.text(manifest.precision_asked)}")
    if manifest.built is not None:
        put(f"precision, built layers: {manifest.built.text(manifest.precision_asked)}")
    ports = ", ".join(f"{name} {kind}" for name, kind in manifest.proof.ports.items())
    put(f"ports: {ports}")
    rewrites = ", ".join(name for name, used in model.rewrites.items() if used)
    put(f"rewrites: {rewrites or 'none'}")
    if model.parity:
        put(
            f"its ONNX file's parity with PyTorch: {model.parity.max_abs:.1e} over "
            f"{model.parity.frames} frames at {', '.join(model.parity.sizes)}"
        )
    if model.gate is not None:
        put(f"gate {model.gate.bounds.name} at {model.gate_size}: accepted")
    if model.int8 is not None:
        for text in model.int8.lines:
            put(text)
    put(f"rebuild: {manifest.rebuild}")
    put(f"sha256 {manifest.sha256}")


def _stream(contract: StreamContract) -> list[str]:
    """How the step is driven: its ports, then its state."""
    c = contract
    low, high = c.range
    check = f"; {c.check} is finite where the picture is" if c.check else ""
    states = ", ".join(f"{s.input} ({' x '.join(s.shape)}) {s.dtype}" for s in c.states)
    by = f"; {', '.join(c.conversion)} take its matrix and range" if c.conversion else ""
    given, made = ", ".join(c.frames), ", ".join(c.pictures)
    return [
        f"stream: {given} -> {made}, {c.dtype} {c.layout} {c.colour} "
        f"{low:g} to {high:g}{check}{by}",
        f"state: {states}; reset {c.reset}",
    ]


def cost_record(variant: Variant, size: tuple[int, int]) -> dict[str, Any]:
    """What one step of a variant costs at an LR size, as plain data."""
    cost = variant.cost(*size)
    return {
        "variant": variant.name,
        **asdict(variant),
        "size": f"{size[0]}x{size[1]}",
        "params": cost.params,
        "macs": cost.macs,
        "executed_macs": cost.executed_macs,
        "gflop": cost.gflop,
        "executed_gflop": cost.executed_gflop,
        "activation_bytes": {
            "float32": cost.activation_elements * 4,
            "float16": cost.activation_elements * 2,
        },
        "state_bytes": {"float32": cost.state_elements * 4, "float16": cost.state_elements * 2},
    }


def _print(facts: dict[str, Any], variant: Variant) -> None:
    params, macs = facts["params"], facts["macs"]
    if variant.computed_alignment:
        clips = "ordinary clips" if variant.degradation == "real" else "papers (BD)"
        rest = f"motion computed, {variant.latent} features of the past, for {clips}"
    else:
        rest = f"flow net {variant.flow_channels}, {variant.tail} tail, "
        rest += variant.degradation.upper()
    put(
        f"{facts['variant']}: x{variant.scale}, {variant.blocks} blocks of "
        f"{variant.channels} channels, {rest}"
    )
    put(f"{'':12}{'parameters':>14}{'GMAC':>10}{'GFLOP':>10}   at {facts['size']} (LR)")
    for part in ("total",) if variant.computed_alignment else ("fnet", "srnet", "total"):
        gmac = macs[part] / 1e9
        put(f"{part:12}{params[part]:>14,}{gmac:>10.2f}{2 * gmac:>10.1f}")
    if facts["executed_macs"] != macs:
        put(
            f"really run  {'':14}{'':10}{facts['executed_gflop']:>10.1f}   "
            "(FNet's decoder covers floor(size/8)*8)"
        )
    memory = facts["activation_bytes"]["float32"] / 2**20
    state = facts["state_bytes"]["float32"] / 2**20
    put(f"activations {memory:.0f} MiB in float32 layer by layer, of it state {state:.1f} MiB")


def _print_manifest(manifest: Manifest) -> None:
    types = ", ".join(f"{n} {name}" for name, n in manifest.precision_found.items())
    put(f"file: size {manifest.size}, asked {manifest.precision_asked}, found {types}")
    if (parity := manifest.parity) is not None:
        put(
            f"parity with PyTorch: {parity.max_abs:.1e} over {parity.frames} frames at "
            f"{', '.join(parity.sizes)}"
        )
    if (gate := manifest.gate) is not None:
        put(f"gate {gate.bounds.name} at {manifest.gate_size}: {'; '.join(gate.reasons)}")
    if manifest.int8 is not None:
        for line in manifest.int8.lines:
            put(line)
    for line in _stream(manifest.contract):
        put(line)
    put(f"sha256 {manifest.sha256 or '(no manifest beside the file)'}")
