"""``teco estimate``."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from teco.cli.options import put, say

if TYPE_CHECKING:
    from teco.estimates.records import MemoryRecord
    from teco.estimates.runtimes import EstimateCheck
    from teco.estimates.tensors import Precision
    from teco_models.deploy.ports import Io
    from teco_models.variant import Variant

MIB = 2**20


@click.command("estimate")
@click.argument("what", metavar="[NAME]", required=False)
@click.option("--blocks", type=click.IntRange(min=1), help="A variant by its residual blocks.")
@click.option("--model", metavar="NAME", help="A shipped model.")
@click.option("--variant", "name", metavar="V", help="A variant's name, such as teco-x4-b3-c64.")
@click.option(
    "--size",
    default="720p",
    show_default=True,
    metavar="SIZE",
    help="540p, 720p, 1080p, 1440p or 4k: the picture that comes out. Or the LR frame, "
    "HEIGHTxWIDTH.",
)
@click.option("--fp16", is_flag=True, help="Convolutions in float16.")
@click.option("--int8", is_flag=True, help="Convolutions in 8 bits, all of them: the best case.")
@click.option(
    "--io", type=click.Choice(["fp32", "fp16", "uint8", "nv12", "i420"]), default="fp32",
    show_default=True, help="Ports, as `teco export --io` has them.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    what: str | None,
    blocks: int | None,
    model: str | None,
    name: str | None,
    size: str,
    fp16: bool,
    int8: bool,
    io: Io,
    as_json: bool,
) -> None:
    """Say what a variant will cost before anything is built, and how well that was predicted.

    Parameters, multiplications and memory of one step, computed from the network's form; then what
    was measured of the shipped models nearest to it, beside what would have been predicted. NAME is
    a shipped model's or a variant's.
    """
    from teco.core.errors import USAGE, TecoError
    from teco.estimates import records as measured
    from teco.estimates import runtimes
    from teco.estimates.memory import memory, parse_size

    if fp16 and int8:
        raise TecoError("--fp16 and --int8 are two precisions", hint="give one", exit_code=USAGE)
    precision: Precision = "fp16" if fp16 else "int8" if int8 else "fp32"
    variant = _variant(what, blocks, model, name)
    scale = variant.scale
    h, w = parse_size(size, scale)
    cost, found = variant.cost(h, w), memory(variant, h, w, precision, io=io)
    records = measured.read()
    comparisons = runtimes.compare(records)
    near = measured.nearest(records, variant.name, (h, w))
    shown = [c for c in comparisons if c.record in near]
    predicted: dict[str, int] = {}
    if precision == "fp32":
        for runtime in runtimes.runtimes_of(records):
            fitted = runtimes.fit([r for r in records if r.runtime == runtime])
            if fitted is not None:
                half: Precision = "fp16" if runtime.endswith("bf16") else "fp32"
                predicted[runtime] = fitted(memory(variant, h, w, half, dynamic=True, io=io))
    facts: dict[str, Any] = {
        "variant": variant.name,
        "precision": precision,
        "io": io,
        "lr_size": f"{h}x{w}",
        "output_size": f"{scale * h}x{scale * w}",
        "params": cost.params["total"],
        "macs": cost.macs["total"],
        "executed_macs": cost.executed_macs["total"],
        "memory": asdict(found) | {"device": found.device},
        "process_growth": predicted,
        "measured": [
            {**asdict(c.record), "predicted": c.predicted, "error": c.error} for c in shown
        ],
        "device_memory_compared_on_a_gpu": False,
    }
    if as_json:
        put(json.dumps(facts, indent=2))
        return
    _print(facts, shown, comparisons)


def _variant(what: str | None, blocks: int | None, model: str | None, name: str | None) -> Variant:
    from teco.core.errors import USAGE, TecoError
    from teco.core.names import did_you_mean
    from teco.exporting.request import shipped_with
    from teco.model.opening import open_model
    from teco_models import zoo
    from teco_models.errors import ModelError
    from teco_models.variant import Variant

    if sum(x is not None for x in (what, blocks, model, name)) != 1:
        raise TecoError(
            "say what to estimate with NAME or one of --blocks, --model or --variant",
            hint="for example `teco estimate --blocks 3 --size 1080p`",
            exit_code=USAGE,
        )
    if what is not None:
        with contextlib.suppress(ModelError):
            return Variant.parse(what)
        model = what
    if name is not None:
        return Variant.parse(name)
    if blocks is not None:
        entry = shipped_with(blocks)
        if entry is not None:
            return open_model(entry.name).variant
        plain = Variant(blocks=blocks, channels=64)
        say(
            f"note: no shipped model has {blocks} block{'s' * (blocks > 1)}; this is the paper's "
            f"network, and those that are shipped differ: --variant {plain.name}-bp-lk"
        )
        return plain
    assert model is not None
    shipped = [entry.name for entry in zoo.entries()]
    if model not in shipped:
        raise TecoError(
            f"no shipped model is called {model}",
            hint=f"{did_you_mean(model, shipped)}shipped: {', '.join(shipped)}; or give --variant",
            exit_code=USAGE,
        )
    return open_model(model).variant


def _print(
    facts: dict[str, Any], shown: list[EstimateCheck], all_: tuple[EstimateCheck, ...]
) -> None:
    memory = facts["memory"]
    h, w = facts["lr_size"].split("x")
    oh, ow = facts["output_size"].split("x")
    put(f"{facts['variant']} in {facts['precision']}")
    put(f"frame in     {w} x {h} (width x height), --size {h}x{w}")
    put(f"picture out  {ow} x {oh}, x{int(oh) // int(h)}")
    put(f"parameters   {facts['params']:,}")
    put(
        f"each frame   {facts['macs'] / 1e9:.2f} GMAC, {2 * facts['macs'] / 1e9:.1f} GFLOP as "
        f"papers count; really run {2 * facts['executed_macs'] / 1e9:.1f} GFLOP"
    )
    put("memory of one stream, MiB")
    for key, text in (
        ("weights", f"weights in {facts['precision']}, fixed tables in float32"),
        ("ports", f"frame and picture in {facts['io']}, and the state, double-buffered"),
        ("activations", f"most tensors alive at once, at {memory['peak_at']!r}"),
        ("workspace", "assumed: the largest tensor once more, in another layout"),
        ("device", "sum; not yet compared with any GPU's"),
    ):
        put(f"  {memory[key] / MIB:8.1f}  {key:12} {text}")
    put(
        f"to and from the host, each frame: {memory['frame_in'] / MIB:.2f} + "
        f"{memory['picture_out'] / MIB:.2f} MiB as float32, a quarter of it as 8 bits"
    )
    if facts["precision"] == "int8":
        put("int8 is the best case: layers that sensitivity keeps in float take more")
    put(
        "method: every tensor of the deployed step in order, freed after its last reader; "
        "elementwise\noperations in place; no export is made"
    )
    if facts["process_growth"]:
        put("a CPU process grows by, MiB (fitted to what was measured, for a dynamic file)")
        for runtime, value in facts["process_growth"].items():
            put(f"  {value / MIB:8.0f}  {runtime}")
    if not shown:
        put("nothing has been measured to compare with")
        return
    put("measured growth nearest to this; predicted from the other variants alone, MiB")
    put(f"  {'measured':>8} {'predicted':>9} {'error':>6}")
    for c in shown:
        put(_row(c, c.record))
    errors = sorted(abs(c.error) for c in all_ if c.error is not None)
    if errors:
        put(
            f"over all {len(errors)} measured: error {100 * errors[len(errors) // 2]:.0f}% in the "
            f"median, {100 * errors[-1]:.0f}% at most"
        )


def _row(comparison: EstimateCheck, record: MemoryRecord) -> str:
    predicted, error = comparison.predicted, comparison.error
    return (
        f"  {record.grown.peak / MIB:8.0f} "
        f"{'-' if predicted is None else f'{predicted / MIB:.0f}':>9} "
        f"{'-' if error is None else f'{100 * error:+.0f}%':>6}  "
        f"{record.model} {record.size} on {record.runtime} {record.version}"
    )
