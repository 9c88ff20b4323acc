"""What an export made, in lines for people."""

from __future__ import annotations

from collections.abc import Sequence

from teco.core import gpu
from teco.exporting.formats import Product, Refusal
from teco.model.manifest import manifest_path


def lines(products: Sequence[Product]) -> list[str]:
    """A line or two on each file of one model in one precision."""
    said = [f"{p.path.name}: {p.size / 1e6:.1f} MB, {_proof(p)}" for p in products]
    model = products[0].model
    parity = model.parity
    assert parity is not None
    said.append(
        f"largest difference from PyTorch's float32 {parity.max_abs:.1e} over "
        f"{parity.frames} recurrent frames at {' and '.join(parity.sizes)}"
    )
    if (gate := model.gate) is not None:
        said.append(
            f"gate {gate.bounds.name} at {model.gate_size}, the reference again PyTorch's float32: "
            f"{'; '.join(gate.reasons)}"
        )
    if (record := model.int8) is not None:
        said += record.lines
    said.append(f"manifest: {', '.join(str(manifest_path(p.path)) for p in products)}")
    said.append(f"next: {_what_next(products)}")
    return said


def _what_next(products: Sequence[Product]) -> str:
    """The command that measures what was made: the engine where it can run, else the ONNX file."""
    by_kind = {p.format == "onnx": p.path for p in reversed(products)}
    if False in by_kind and gpu.find():
        return f"teco bench {by_kind[False]}"
    return f"teco bench {by_kind[True]}" if True in by_kind else f"teco info {by_kind[False]}"


def table(products: Sequence[Product], refusals: Sequence[Refusal]) -> list[str]:
    """Size, proof, parity, gate and speed of each; plain, so that it can be pasted."""
    rows = [("file", "MB", "proof", "parity", "gate", "int8's speed")]
    rows += [_row(product) for product in products]
    rows += [(refusal.name, "", "", "", "refused", "") for refusal in refusals]
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _row(product: Product) -> tuple[str, str, str, str, str, str]:
    model = product.model
    parity, gate = model.parity, model.gate
    assert parity is not None
    close = f"{parity.max_abs:.1e}"
    if parity.min_psnr is not None:
        close += f", {parity.min_psnr:.1f} dB"
    verdict = "not needed"
    if gate is not None:
        worst = gate.numbers.worst_psnr
        verdict = f"accepted, {'equal' if worst is None else f'{worst:.1f} dB'}"
    timings = model.int8.timings if model.int8 else ()
    speed = ", ".join(f"{t.ratio:.2f}x fp32 on {t.runtime}" for t in timings)
    size = f"{product.size / 1e6:.1f}"
    return (product.path.name, size, _proof(product), close, verdict, speed)


def _proof(product: Product) -> str:
    return product.proof.text(product.model.precision_asked)
