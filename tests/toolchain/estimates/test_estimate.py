"""`teco estimate`: tiny cases by hand, liveness by another program, what records predict."""

from __future__ import annotations

import json
import math
import runpy
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from paths import SCRIPTS

from teco.core.errors import USAGE, TecoError
from teco.estimates import records
from teco.estimates.memory import PICTURES, MemoryEstimate, memory, parse_size
from teco.estimates.records import Grown, MemoryRecord
from teco.estimates.runtimes import Fit, compare, fit, memory_of
from teco.estimates.tensors import FILE, FORMS, PORTS, Op, deployed, key_of, peak
from teco_models.variant import Variant

TINY = Variant(blocks=1, channels=8, flow_channels=0, tail="shuffle")


# --- by hand ---------------------------------------------------------------------------------


def test_peak_of_a_chain():
    ops = (
        Op("a", 10, 4, ("lr",)),
        Op("b", 30, 4, ("a",)),
        Op("c", 5, 4, ("b",)),
        Op("hr", 100, 4, ("c",)),
    )
    assert peak(ops) == (160, "b")  # a and b; the port is not counted


def test_peak_with_something_held():
    ops = (
        Op("skip", 10, 2, ("lr",)),
        Op("a", 30, 2, ("skip",)),
        Op("b", 30, 2, ("a",)),
        Op("hr", 1, 2, ("b", "skip")),
    )
    assert peak(ops) == (2 * (10 + 30 + 30), "b")


def test_elementwise_writes_over_what_nobody_reads_again():
    a, b = Op("a", 10, 4, ()), Op("b", 10, 4, ())
    total = Op("sum", 10, 4, ("a", "b"), elementwise=True)
    assert peak((a, b, total))[0] == 80
    assert peak((a, b, replace(total, elementwise=False)))[0] == 120
    later = Op("hr", 1, 4, ("a", "sum"))
    assert peak((a, b, total, later))[0] == 80, "b is free to be written over"
    assert peak((a, b, total, replace(later, inputs=("a", "b", "sum"))))[0] == 120
    assert peak((a, b, replace(total, width=2)))[0] == 100, "of another width"


def test_a_network_by_hand():
    """One block of 8 channels without flow: the picture's phases and the residual are the peak."""
    n = 16 * 24
    found = memory(TINY, 16, 24, form={"stack_pixels": False})
    # phases_out (48) and the features, dead by then; the residual (48) beside them and its border.
    edged = 3 * 19 * 27
    assert found.activations == 4 * (48 * n + 48 * n + edged)
    assert found.peak_at == "residual_by_colour"
    assert found.ports == 4 * n * (3 + 3 + 2 * 48 + 2 * 8 + 48)
    params = TINY.cost(16, 24).params["total"]
    assert found.weights == 4 * (params + 9 * 16 * 16)
    assert found.workspace == 4 * (48 + 8) * n  # the past and the features, joined
    assert found.device == found.weights + found.ports + found.activations + found.workspace
    assert (found.frame_in, found.picture_out) == (4 * 3 * n, 4 * 48 * n)


def test_precision_halves_what_convolutions_touch():
    full, half, eighth = (memory(Variant(), 64, 96, p) for p in ("fp32", "fp16", "int8"))
    assert full.activations == 2 * half.activations == 4 * eighth.activations
    assert full.ports == half.ports == eighth.ports
    params = Variant().cost(64, 96).params["total"]
    assert full.weights - half.weights == pytest.approx(2 * params, rel=0.03)
    assert half.weights - eighth.weights == pytest.approx(params, rel=0.03)


def test_memory_grows_with_the_picture_and_not_with_blocks():
    small, large = memory(Variant(), 64, 96), memory(Variant(), 128, 192)
    assert large.activations == 4 * small.activations
    assert large.ports == 4 * small.ports
    deep = memory(Variant(blocks=16), 64, 96)
    assert deep.activations == small.activations
    assert deep.weights > small.weights


@pytest.mark.parametrize("name", ["teco-x4-b1-c8-f0-shuffle", "teco-x4-b3-c64-bp-lk", "real-cpu"])
def test_ports_are_the_files_own(name):
    """Planes are an eighth of floats; what becomes of them in the graph is counted there."""
    from teco.model.opening import open_model

    variant = open_model(name).variant if name == "real-cpu" else Variant.parse(name)
    h, w = 90, 160
    floats, eight, planes = (memory(variant, h, w, io=io) for io in ("fp32", "uint8", "nv12"))
    picture = variant.scale**2 * h * w
    assert floats.frame_in == 12 * h * w
    assert floats.picture_out == 12 * picture
    assert (eight.frame_in, eight.picture_out) == (3 * h * w, 3 * picture)
    assert (planes.frame_in, planes.picture_out) == (3 * h * w // 2, 3 * picture // 2)
    assert memory(variant, h, w, io="i420") == planes
    # The frame in floats, and the picture's while its chroma is made; of a network that keeps the
    # picture, it is an output in floats as well.
    assert planes.activations >= 12 * h * w + (2.5 if variant.has_flow else 3.5) * 12 * picture
    assert planes.activations >= eight.activations > floats.activations
    assert (planes.ports < floats.ports) == (not variant.has_flow)
    assert planes.weights == floats.weights


# --- by another program ----------------------------------------------------------------------

VIEWS = {"Reshape", "Unsqueeze", "Squeeze", "Flatten", "Identity"}
ELEMENTWISE = {
    "Relu", "LeakyRelu", "Tanh", "Sigmoid", "Add", "Sub", "Mul", "Div", "Pow", "Clip", "Sqrt",
}  # fmt: skip


def liveness(model) -> tuple[int, int]:
    """Largest number of bytes alive in an ONNX graph beside its ports, and stored elements."""
    import onnx

    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    graph = model.graph
    size = {
        v.name: math.prod(d.dim_value for d in v.type.tensor_type.shape.dim)
        * onnx.helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type).itemsize
        for v in (*graph.value_info, *graph.input, *graph.output)
    }
    source = {n.output[0]: n.input[0] for n in graph.node if n.op_type in VIEWS}

    def root(name: str) -> str:
        return root(source[name]) if name in source else name

    held = {root(v.name) for v in (*graph.input, *graph.output)}
    steps = [
        (n.op_type, [root(i) for i in n.input if i], [root(o) for o in n.output])
        for n in graph.node
        if n.op_type not in VIEWS
    ]
    most = 0
    alive: set[str] = set()
    for at, (kind, reads, writes) in enumerate(steps):
        later = {name for step in steps[at + 1 :] for name in step[1]}
        ends = {x for x in reads if x in alive and x not in later}
        if kind in ELEMENTWISE:
            same = [x for x in ends if size[x] == size[writes[0]]]
            alive -= set(same[:1])
        alive |= set(writes) - held
        most = max(most, sum(size[x] for x in alive))
        alive -= ends | {x for x in writes if x not in later}
    return most, sum(math.prod(t.dims) for t in graph.initializer)


KINDS = (
    pytest.param("teco-x4-b1-c16-f8", "fp32", "onnxruntime", marks=pytest.mark.slow),
    pytest.param("teco-x4-b1-c16-f8-bp-lk", "fp16", "tensorrt", marks=pytest.mark.slow),
    ("teco-x4-b1-c16-f0-shuffle", "fp32", "openvino"),
    ("teco-x4-b1-c32-f8-egvsr", "fp16", "onnxruntime"),
)


@pytest.mark.parametrize(("name", "precision", "target"), KINDS)
def test_the_list_is_the_exported_graph(name, precision, target):
    """The peak is that of the graph to the byte, its stored values within one percent."""
    pytest.importorskip("onnxscript")
    from teco.exporting.trace import trace
    from teco.model.contract import StreamContract
    from teco_models.arch.generator import Generator
    from teco_models.deploy.step import TARGETS, deploy_step

    variant = Variant.parse(name)
    step = deploy_step(Generator(variant).eval(), TARGETS[target], precision)
    model = trace(step, StreamContract.of(variant), (11, 16))
    ops = deployed(variant, 11, 16, precision, asdict(TARGETS[target]))
    most, stored = liveness(model)
    assert peak(ops)[0] == most
    assert sum(op.weights + op.constants for op in ops) == pytest.approx(stored, rel=0.01)


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        ("f0 shuffle", "onnxruntime"),
        pytest.param("lk bp transposed", "tensorrt", marks=pytest.mark.slow),
    ],
)
def test_the_file_is_what_is_exported_now(kind, form):
    """Run scripts/record_graphs.py where it is not."""
    pytest.importorskip("onnxscript")
    script = runpy.run_path(str(SCRIPTS / "record_graphs.py"))
    variant = next(
        v
        for v in script["variants"]()
        if v.tail == kind.split()[-1]
        and v.has_flow != ("f0" in kind)
        and (v.lucas_kanade, v.back_projection) == ("lk" in kind, "bp" in kind)
    )
    data = json.loads(FILE.read_text())
    rows = [data["ops"][n] for n in data["graphs"][key_of(variant, form)]]
    assert rows == json.loads(json.dumps(script["record"](variant, form)))


def test_forms_are_those_of_the_deploy_step():
    pytest.importorskip("torch")
    from teco_models.deploy.step import TARGETS

    for name, off in FORMS.items():
        assert {k: v for k, v in asdict(TARGETS[name]).items() if not v} == off
    used = [{k: v for k, v in asdict(t).items() if not v} for t in TARGETS.values()]
    assert all(u in FORMS.values() for u in used)


@pytest.mark.parametrize(
    "name", ["teco-x4-b3-c64", "teco-x4-b2-c32-f0-shuffle", "teco-x4-b1-c16-bi"]
)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_every_form_is_a_graph(name, form, precision):
    """All that is read was written before, one frame is made, and no weight is forgotten."""
    variant = Variant.parse(name)
    ops = deployed(variant, 24, 40, precision, FORMS[form])
    written: set[str] = set(PORTS[:5])
    for op in ops:
        assert set(op.inputs) <= written, op
        written.add(op.name)
    assert [op.name for op in ops].count("hr") == 1
    assert next(op for op in ops if op.name == "hr").size == 4 * 48 * 24 * 40
    trained = sum(op.weights for op in ops)
    # phase_tail stores the output convolution once more for each phase it reads.
    more = 4 * 16 * 12 * variant.channels if variant.tail == "transposed" else 0
    params = variant.cost(24, 40).params["total"]
    assert params <= trained <= params * 1.002 + more + 64


# --- sizes -----------------------------------------------------------------------------------


def test_sizes():
    assert parse_size("1080p") == parse_size("270x480") == (270, 480)
    assert parse_size("4K") == parse_size("2160p") == (540, 960)
    assert all(h % 4 == w % 4 == 0 for h, w in PICTURES.values())
    for text in ("1080", "270x", "x", "7x100", "1e3x20", "²x9", "270x480x3", ""):
        with pytest.raises(TecoError, match="is no size") as error:
            parse_size(text)
        assert error.value.exit_code == USAGE


# --- records ---------------------------------------------------------------------------------


def record(
    variant: str, size: str, constant: float = 5e7, factor: float = 2.5, **changes
) -> MemoryRecord:
    """As a runtime would have been measured that adds just this."""
    one = MemoryRecord(
        model=variant, variant=variant, precision="fp32", form={}, static=False,
        runtime="some", version="1", size=size, threads=1, cpu="a CPU", grown=Grown(0, 0, 1, 1),
    )  # fmt: skip
    grown = Fit(constant, factor)(memory_of(one))
    return replace(one, grown=Grown(0, 0, grown, grown), **changes)


def test_the_fit_finds_what_was_put_in():
    some = tuple(record(v, s) for v in ("teco-x4-b1-c32", "teco-x4-b9-c64-f0-shuffle")
                 for s in ("64x96", "128x200"))  # fmt: skip
    found = fit(some)
    assert found is not None
    assert found.constant == pytest.approx(5e7, rel=1e-3)
    assert found.factor == pytest.approx(2.5, rel=1e-3)
    assert [c.error for c in compare(some)] == pytest.approx([0] * 4, abs=1e-3)
    assert fit(some[:1]) is None
    assert fit(tuple(record("teco-x4-b1-c32", s, -3e6) for s in ("64x96", "128x200"))) is not None


def test_a_variant_is_predicted_from_others_only():
    ordinary = [record("teco-x4-b1-c32", s) for s in ("64x96", "128x200")]
    odd = [record("teco-x4-b1-c48", s, factor=5) for s in ("64x96", "128x200")]
    found = compare([*ordinary, *odd])
    for comparison in found[2:]:
        assert comparison.error is not None
        assert comparison.error < -0.1
        assert comparison.predicted == Fit(5e7, 2.5)(comparison.own)
    alone = compare(ordinary)
    assert [c.predicted for c in alone] == [None, None]


def test_nearest_is_the_same_variant_then_the_size():
    some = (
        record("teco-x4-b1-c32", "64x96"),
        record("teco-x4-b1-c32", "128x200"),
        record("teco-x4-b1-c48", "64x96"),
    )
    found = records.nearest(some, "teco-x4-b1-c32", (120, 190), 3)
    assert [r.size for r in found] == ["128x200", "64x96", "64x96"]
    assert found[2].variant == "teco-x4-b1-c48"


def test_records_round_trip(tmp_path):
    path = tmp_path / "measured.json"
    assert records.read(path) == ()
    some = (record("teco-x4-b1-c32", "64x96"), record("teco-x4-b1-c32", "8x9"))
    records.write(some, path)
    assert records.read(path) == (some[1], some[0]), "by model, runtime and size"
    path.write_text('{"records": [{"model": 1}]}')
    with pytest.raises(TecoError, match="is no file of measured memory"):
        records.read(path)


def test_what_is_shipped_was_measured_of_what_is_shipped():
    """A model that is exchanged must be measured again."""
    from teco.model.manifest import manifest_path
    from teco_models import zoo

    found = records.read()
    assert found
    shipped = {e.name: json.loads(manifest_path(e.onnx).read_text()) for e in zoo.entries()}
    assert {r.model for r in found} <= set(shipped)
    # Perceptual forms are the same graphs with other numbers.
    assert {r.variant for r in found} == {m["variant"] for m in shipped.values()}
    for r in found:
        assert r.variant == shipped[r.model]["variant"]
        assert r.form == shipped[r.model]["rewrites"]
        assert r.grown.peak >= r.grown.opened > 0


def test_measuring(tiny_onnx):
    """Opens and steps in a process of its own; the ports alone are more than nothing."""
    measure = runpy.run_path(str(SCRIPTS / "measure_memory.py"))["measure"]
    found = measure(str(tiny_onnx), "onnxruntime", (64, 96), 1)
    assert found.before > 0
    assert found.peak >= found.opened > 0
    assert found.peak > memory(Variant.parse("teco-x4-b1-c16-f8-shuffle"), 64, 96).ports
    with pytest.raises(TecoError, match="was not measured"):
        measure("nothing", "onnxruntime", (64, 96), 1)


# --- the command -----------------------------------------------------------------------------


def test_the_command(teco):
    facts = json.loads(teco("estimate", "--blocks", 3, "--size", "1080p", "--json").stdout)
    variant = Variant.parse("teco-x4-b3-c64-bp-lk")
    assert facts["variant"] == variant.name
    assert (facts["lr_size"], facts["output_size"]) == ("270x480", "1080x1920")
    cost = variant.cost(270, 480)
    assert (facts["macs"], facts["params"]) == (cost.macs["total"], cost.params["total"])
    own = MemoryEstimate(**{k: v for k, v in facts["memory"].items() if k != "device"})
    assert own == memory(variant, 270, 480)
    assert facts["memory"]["device"] == own.device
    assert not facts["device_memory_compared_on_a_gpu"]
    assert {r["variant"] for r in facts["measured"]} == {variant.name}
    assert all(r["error"] is not None for r in facts["measured"])
    planes = teco("estimate", "--blocks", 3, "--size", "1080p", "--io", "nv12", "--json").stdout
    assert json.loads(planes)["memory"]["frame_in"] == 270 * 480 * 3 // 2
    text = teco("estimate", "--variant", "teco-x4-b5-c48", "--fp16").stdout.decode()
    assert "frame in     320 x 180 (width x height), --size 180x320" in text
    assert "picture out  1280 x 720" in text
    assert "not yet compared with any GPU's" in text
    assert max(map(len, text.splitlines())) <= 100
    assert teco("estimate", "teco-x4-b5-c48", "--fp16").stdout.decode() == text
    assert "note: no shipped model has 2 blocks" in teco("estimate", "--blocks", 2).stderr
    assert "int8 is the best case" in teco("estimate", "--model", "live", "--int8").stdout.decode()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "with NAME or one of --blocks, --model or --variant"),
        (("--blocks", 3, "--model", "live"), "one of --blocks"),
        (("live", "--blocks", 3), "one of --blocks"),
        (("--blocks", 3, "--fp16", "--int8"), "are two precisions"),
        (("--blocks", 3, "--size", "1081p"), "'1081p' is no size"),
        (("--model", "nothing"), "no shipped model is called nothing"),
    ],
)
def test_questions_that_are_wrong(teco, arguments, words):
    teco("estimate", *arguments).refuses(2, words)


def test_without_records(teco, monkeypatch, tmp_path):
    empty: Path = tmp_path / "none.json"
    read = records.read
    monkeypatch.setattr(records, "read", lambda: read(empty))
    text = teco("estimate", "--blocks", 3).stdout.decode()
    assert "nothing has been measured to compare with" in text
