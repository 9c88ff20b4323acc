"""Every form of an engine is built by the real TensorRT-RTX, for every GPU it knows.

Building needs no GPU. That what was built runs, and what it gives, is not tested here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from teco.core.files import sha256_of
from teco.exporting.engines.rtx import RtxOptions, build_rtx, known_sm
from teco.exporting.options import ExportOptions, Precision
from teco.model.engine import api
from teco.model.engine.preflight import read
from teco.model.manifest import Manifest, manifest_path
from teco.model.opening import Model, open_model
from teco_models.variant import Variant

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not api.is_installed("rtx"), reason="tensorrt_rtx is not installed: pip install 'teco[rtx]'"
    ),
]

SIZE = (20, 28)
SIZES = ((8, 8), SIZE, (36, 44))
FULL = Variant(blocks=1, channels=16, flow_channels=8, back_projection=True, lucas_kanade=True)
FREE = Variant(blocks=1, channels=16, flow_channels=0, tail="shuffle")
REAL = Variant.parse("teco-x4-b1-c16-l4-real")


def forms() -> Iterator[Any]:
    """Kind, precision, type of the ports, static or not."""
    for variant in (FULL, FREE, REAL):
        for precision in ("fp32", "fp16", "int8"):
            for io in ("fp32", "fp16", "uint8") if variant is FULL else ("fp32", "uint8"):
                for size in (SIZE, None):
                    words = (variant.name, precision, f"{io}io", "static" if size else "dynamic")
                    yield pytest.param(variant, precision, io, size, id="-".join(words))


def model_of(variant: Variant, options: ExportOptions, folder: Path) -> Model:
    """The file that an export writes, but not verified: its weights are random."""
    from teco.exporting.quantisation.qdq import insert, learned
    from teco.exporting.trace import DeployForm
    from teco_models.checkpoint import generator_of, infer

    torch.manual_seed(1)
    generator = generator_of(variant)
    form = DeployForm.of(infer(generator.state_dict(), source="test"), options)
    graph = form.graph(options.size)
    if options.precision == "int8":
        graph = insert(graph, dict.fromkeys(learned(graph), 1.0))
    path = folder / "step.onnx"
    path.write_bytes(graph.SerializeToString())
    manifest = Manifest(
        variant=variant.name,
        precision_asked=options.precision,
        precision_found={},
        size=options.size_text,
        contract=form.contract,
        rewrites=form.rewrites,
        parity=None,
        weights_sha256="0" * 64,
        versions={},
        sha256=sha256_of(path),
    )
    manifest_path(path).write_text(manifest.to_json())
    return open_model(str(path))


@pytest.mark.parametrize(("variant", "precision", "io", "size"), tuple(forms()))
def test_every_form_builds_for_every_gpu(
    tmp_path: Path, variant: Variant, precision: Precision, io: Any, size: tuple[int, int] | None
) -> None:
    options = ExportOptions(size=size, precision=precision, io=io, target="tensorrt")
    options.check(variant)
    model = model_of(variant, options, tmp_path)
    trt = cast(api.RtxBindings, api.load("rtx", "the test"))
    every = known_sm(trt)
    assert {75, 80, 86, 89, 120} <= set(every)
    # Ports and dynamic sizes are the same layers for each GPU.
    alone = [(one,) for one in every] if size and io == "fp32" else []
    for sm in (every, *alone):
        folder = tmp_path / "-".join(map(str, sm))
        folder.mkdir()
        profile = None if size else SIZES
        engine = read(build_rtx(model, folder, RtxOptions(sm=sm, profile=profile)))
        assert engine.compute_capabilities == sm
        proof = engine.proof
        assert set(proof.warps) == set(proof.grids) == ({"fp32"} if variant is not FREE else set())
        if precision == "fp32":
            assert set(proof.layers) == {"fp32"}
        else:
            # Fixed filters stay in float32; whatever is learned does not. In int8, the mask of
            # back-projection is in float16.
            learned = sum(proof.convolutions.values()) - proof.convolutions.get("fp32", 0)
            others = proof.convolutions["fp16"] if precision == "int8" and variant is FULL else 0
            assert others <= 1
            assert proof.convolutions[precision] == learned - others
            assert proof.layers["fp16"] > 0
