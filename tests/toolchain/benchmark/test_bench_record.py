"""Records: written and read back the same, refused in a sentence otherwise, and compared."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from teco.benchmark.record import catalogue, fail_if, schema, store
from teco.benchmark.record.compare import compare
from teco.benchmark.record.quality import ClipRecord, ColdStart, DistanceRecord, Quality
from teco.benchmark.record.record import (
    Artifact,
    Ceiling,
    Conditions,
    EndToEnd,
    Memory,
    Record,
    Roofline,
    Row,
    Static,
)
from teco.benchmark.record.warnings import warnings_of
from teco.core.errors import USAGE, TecoError
from teco.core.machine import Machine
from teco.measurement.records import Latency, NoiseFloor, WarmUp
from teco.measurement.statistics import samples_of
from teco_calibration.records import to_data

HERE = Machine(
    cpu="AMD EPYC 9V74", cores=2, cpu_flags=("avx2",), memory_gib=16.0, gpus=(), os="Linux 6.1",
    python="3.12.1", packages={"onnxruntime": "1.22.0"}, load=0.1,
)  # fmt: skip

FILE = Artifact(
    name="live", file="live.onnx", kind="onnx", sha256="ab" * 32, bytes=3 << 20,
    variant="teco-x4-b2-c48-f0-shuffle", precision="fp32", precision_found={"float32": 9},
    proof="float32 in 9 of 9 tensors", size="dynamic", io="fp32", weights_sha256="cd" * 32,
)  # fmt: skip


def row(name: str, ms: float, **fields: Any) -> Row:
    latency = Latency(
        host=samples_of([[ms, ms * 1.01, ms * 0.99]] * 8), device=None, load_ms=80.0,
        first_ms=2 * ms, warm_up=WarmUp(steps=2, stable=True, ms=(ms, ms)),
    )  # fmt: skip
    memory = Memory(
        peak=100 << 20, private=60 << 20, base=50 << 20, steps=27, device=None,
        growth_per_1000=0, growth_steps=40, growth_size="16x24", weights=1, activations=2,
    )  # fmt: skip
    values: dict[str, Any] = {"latency": latency, "memory": memory, **fields}
    return Row(
        key=f"{name} on onnxruntime", artifact=replace(FILE, name=name), runtime="onnxruntime",
        runtime_version="1.22.0", details="CPU", device="cpu", precision="fp32", exact=True,
        size="45x80", **values,
    )  # fmt: skip


def record(*rows: Row, **fields: Any) -> Record:
    conditions = Conditions(
        threads=2, affinity=(0, 1), pinning="2 threads", governor=None, load_before=0.1,
        load_after=1.9, busy_share=0.01, throttled=None, clock="time.perf_counter_ns",
        timer_overhead_ns=50.0, timer_resolution_ns=10.0, block=3, seed=0, budget_s=None,
        repetitions=24,
    )  # fmt: skip
    values: dict[str, Any] = {
        "command": "teco bench live", "created": "2026-11-26T00:00:00+00:00", "complete": True,
        "stopped": "", "seconds": 12.5, "machine": HERE, "conditions": conditions, "clip": None,
        **fields,
    }  # fmt: skip
    return Record(rows=rows, **values)


QUALITY = Quality(
    method="live", measured_on="onnxruntime", seen=7, first=2, frames=3, window=(0, 0, 64, 96),
    values={"psnr": (30.0, None, 31.0), "tof": (0.5, 0.25)}, means={"psnr": None, "tof": 0.375},
)  # fmt: skip
DISTANCE = DistanceRecord(
    reference="pytorch", frames=4, size="45x80", max_steps=9, within_one=0.9,
    psnr=(None, 50.0), min_psnr=50.0, psnr_drop=0.5,
)  # fmt: skip
CLIP = ClipRecord(
    name="city.mp4", sha256="ef" * 32, truth="", width=320, height=192, frames=7, rate=25.0,
    degradation="bd", shrink=1.0,
)  # fmt: skip


def whole() -> Record:
    """With something of everything."""
    ceilings = (
        Ceiling(kind="gemm", library="onnxruntime", device="cpu", precision="fp32", value=1e11,
                ms=(30.0,), method="m"),
        Ceiling(kind="copy", library="numpy", device="cpu", precision="", value=2e10, ms=(5.0,),
                method="m"),
    )  # fmt: skip
    roof = Roofline(
        macs=10**9, bytes=10**7, tensor_bytes=10**8, gemm=0, copy=1, compute_ms=10.0,
        memory_ms=0.5, bound="compute", share=0.5,
    )  # fmt: skip
    noise = NoiseFloor(row="live on onnxruntime", ratio=1.01, low=0.99, high=1.03, share=0.01)
    one = row("live", 20.0, roofline=roof, quality=QUALITY, distance=DISTANCE)
    return record(one, ceilings=ceilings, noise=(noise,), clip=CLIP, interpolations=(QUALITY,))


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    store.write(path, whole())
    assert store.read(path) == whole()
    assert list(tmp_path.iterdir()) == [path]


def test_the_schema_beside_the_package_is_the_classes() -> None:
    shipped = Path(schema.__file__).with_name("record.schema.json")
    assert json.loads(shipped.read_text()) == schema.schema(), (
        "run teco catalogue schema > toolchain/teco/benchmark/record/record.schema.json"
    )
    told = json.loads(shipped.read_text())
    assert told["$defs"]["Summary"]["properties"]["p99"]["description"]
    for kind in told["$defs"].values():
        assert all(field.get("description") for field in kind["properties"].values())


def test_a_record_obeys_its_schema(tmp_path: Path) -> None:
    """By the schema's own words: fields, types and what may be missing."""
    told = schema.schema()
    path = tmp_path / "r.json"
    store.write(path, whole())

    def obeys(value: Any, kind: dict[str, Any]) -> bool:
        if "$ref" in kind:
            return obeys(value, told["$defs"][kind["$ref"].rpartition("/")[2]])
        if "anyOf" in kind:
            return any(obeys(value, one) for one in kind["anyOf"])
        if "enum" in kind:
            return value in kind["enum"]
        if kind.get("type") == "object" and "properties" in kind:
            return (
                isinstance(value, dict)
                and set(value) == set(kind["required"])
                and all(obeys(value[name], one) for name, one in kind["properties"].items())
            )
        if kind.get("type") == "object":
            return all(obeys(x, kind["additionalProperties"]) for x in value.values())
        if kind.get("type") == "array":
            return isinstance(value, list) and all(obeys(x, kind["items"]) for x in value)
        names = {"string": str, "integer": int, "boolean": bool, "null": type(None)}
        if kind.get("type") == "number":
            return type(value) in (int, float)
        return "type" not in kind or type(value) is names[kind["type"]]

    assert obeys(json.loads(path.read_text()), told)


def change(path: Path, **fields: Any) -> Path:
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, **fields}))
    return path


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"schema": 1}, "schema 1, this teco reads 3 and 2"),
        ({"schema": "2"}, "schema '2', this teco reads 3 and 2"),
        ({"kind": "teco compare"}, "is no record of teco bench"),
        ({"mood": "good"}, "unknown 'mood'"),
        ({"seconds": "many"}, "seconds is 'many', expected float"),
        ({"seconds": None}, "seconds is None"),
        ({"rows": [3]}, "record.rows[0] is 3, expected an object"),
        ({"stopped": "at once"}, "it is complete and was stopped"),
    ],
)
def test_other_records_are_refused(tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    path = tmp_path / "r.json"
    store.write(path, whole())
    with pytest.raises(TecoError, match=r"r\.json is") as refused:
        store.read(change(path, **fields))
    assert words in refused.value.message
    assert refused.value.exit_code == USAGE


def test_a_record_of_schema_2_is_read_as_one_of_today(tmp_path: Path) -> None:
    """Every name that changed, and nothing else."""
    cold = ColdStart(
        psnr=(29.0,), settled_psnr=(30.0,), lpips=(), settled_lpips=(), starts=(1,), size="45x80",
        pre_roll=1, tolerance=0.1, sentence="",
    )  # fmt: skip
    now = whole()
    end_to_end = EndToEnd(
        frames=3, seconds=1.0, fps=3.0, gaps=samples_of([[1.0, 2.0]]), step_ms=1.0,
        encoder="libx264", source="a clip",
    )  # fmt: skip
    quality = replace(QUALITY, cold_start=cold)
    rows = (replace(now.rows[0], quality=quality, end_to_end=end_to_end),)
    now = replace(now, rows=rows, interpolations=(quality,))
    data = to_data(now)
    data["schema"] = 2
    (old,) = data["rows"]
    old["kernel"], old["pipeline"] = old.pop("latency"), old.pop("end_to_end")
    for one in (old["quality"], *data["interpolations"]):
        one["cold_start"]["warm_up"] = one["cold_start"].pop("pre_roll")
    path = tmp_path / "r.json"
    path.write_text(json.dumps(data))
    assert store.read(path) == now
    for path in catalogue.FOLDER.glob("*.json"):
        assert store.read(path).rows[0].latency is not None


def test_figures_that_are_not_those_of_the_samples_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    store.write(path, whole())
    data = json.loads(path.read_text())
    data["rows"][0]["latency"]["host"]["summary"]["p50"] = 1.0
    path.write_text(json.dumps(data))
    with pytest.raises(TecoError, match="p50 is 1, its samples give 20"):
        store.read(path)


def test_single_steps_may_have_no_jitter(tmp_path: Path) -> None:
    """Records of before their rounds were compared say 0; any other figure is wrong."""
    path = tmp_path / "r.json"
    store.write(path, whole())
    data = json.loads(path.read_text())
    host = data["rows"][0]["latency"]["host"]
    made = to_data(samples_of([[20.0], [23.0], [22.0]]))
    assert made["summary"]["jitter"] == 2
    for jitter, fits in ((2.0, True), (0.0, True), (1.0, False)):
        host.update(made)
        host["summary"]["jitter"] = jitter
        path.write_text(json.dumps(data))
        if fits:
            store.read(path)
        else:
            with pytest.raises(TecoError, match="jitter is 1, its samples give 2"):
                store.read(path)


@pytest.mark.parametrize("bad", [{}, {"verdict": 3, "model": "a", "runtime": "b"}, {"mood": 1}])
def test_verdicts_that_are_none_are_refused(tmp_path: Path, bad: dict[str, Any]) -> None:
    path = tmp_path / "r.json"
    store.write(path, whole())
    with pytest.raises(TecoError, match=r"is no complete record: (record\.gate\[0\]|a verdict)"):
        store.read(change(path, gate=[bad]))


def test_blocks_without_a_sample_are_refused(tmp_path: Path) -> None:
    """Their median is what two records are compared by."""
    path = tmp_path / "r.json"
    store.write(path, whole())
    data = json.loads(path.read_text())
    data["rows"][0]["latency"]["host"]["blocks"].append([])
    path.write_text(json.dumps(data))
    with pytest.raises(TecoError, match=r"latency\.host has no samples, a block without any"):
        store.read(path)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path, teco) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    store.write(good, whole())
    teco("compare", good, tmp_path / "none.json").refuses(2, "cannot be read as a record")
    teco("compare", tmp_path, good).refuses(2, "cannot be read as a record")
    huge = good.read_bytes().replace(b'"schema": 3', b'"schema": 3' + b"0" * 400)
    for content in (b"{", b"\xff\xfe", b"[]", b"null", b"[" * 100_000, huge):
        bad.write_bytes(content)
        teco("compare", bad, good).refuses(2, "bad.json")
    bad.write_bytes(huge)
    teco("compare", good, bad).refuses(2, "a whole number of 401 digits")
    change(good, schema=7)
    teco("compare", good, good).refuses(2, "schema 7, this teco reads 3")


# --- compare ---------------------------------------------------------------------------------


def test_compare_finds_what_changed_and_what_did_not(tmp_path: Path, teco) -> None:
    before = record(row("live", 20.0), row("same", 30.0), row("gone", 1.0))
    after = record(row("live", 24.0), row("same", 30.3), row("new", 1.0))
    found = compare(before, after)
    verdicts = {pair.key: pair.ratio.verdict for pair in found.pairs if pair.ratio}
    assert verdicts == {"live on onnxruntime": "slower", "same on onnxruntime": "equal"}
    assert found.pairs[0].ratio is not None
    assert found.pairs[0].ratio.ratio == pytest.approx(1.2, rel=1e-3)
    assert found.only_before == ("gone on onnxruntime",)
    assert found.only_after == ("new on onnxruntime",)
    assert found.differences == ()
    paths = tmp_path / "a.json", tmp_path / "b.json"
    for path, one in zip(paths, (before, after), strict=True):
        store.write(path, one)
    done = teco("compare", *paths, "--json", tmp_path / "c.json")
    done.says()
    text = done.stdout.decode()
    assert text.startswith("Of 2 candidates after: 1 slower, 1 as fast; most: live on onnxruntime ")
    assert "1.200" in text
    assert "slower" in text
    assert max(len(line) for line in text.splitlines()) <= 100
    data = json.loads((tmp_path / "c.json").read_text())
    assert data["pairs"][0]["ratio"]["verdict"] == "slower"


def test_records_of_two_machines_say_what_makes_them_incomparable(tmp_path: Path, teco) -> None:
    there = replace(
        HERE, cpu="Xeon", cores=16, gpus=("NVIDIA H100, 570.1, 81559 MiB",), python="3.11.2",
        packages={"onnxruntime": "1.20.0", "torch": "2.8.0"},
    )  # fmt: skip
    busy = replace(record().conditions, threads=16, governor="powersave", busy_share=0.4)
    other = record(row("live", 5.0), machine=there, conditions=busy)
    other = replace(other, warnings=warnings_of(other))
    found = compare(record(row("live", 20.0)), other)
    hard = {d.what for d in found.incomparable}
    assert hard == {"cpu", "cores", "gpus", "threads", "governor", "a disturbed run"}
    soft = {d.what for d in found.differences} - hard
    assert soft == {"python", "onnxruntime", "torch"}
    paths = tmp_path / "a.json", tmp_path / "b.json"
    store.write(paths[0], record(row("live", 20.0)))
    store.write(paths[1], other)
    done = teco("compare", *paths)
    done.says()
    text = " ".join(done.stdout.decode().split())
    assert "incomparable: cpu: AMD EPYC 9V74 | Xeon" in text
    assert "which machine with which software is faster" in text


def test_compare_wants_a_row_in_common(tmp_path: Path, teco) -> None:
    paths = tmp_path / "a.json", tmp_path / "b.json"
    store.write(paths[0], record(row("live", 20.0)))
    store.write(paths[1], record(replace(row("live", 20.0), size="90x160")))
    teco("compare", *paths).refuses(1, "have no row in common", "live on onnxruntime")


def test_other_changes_are_told() -> None:
    slim = replace(row("live", 20.0).memory, peak=50 << 20)  # type: ignore[type-var]
    new = row("live", 20.0, memory=slim, quality=replace(QUALITY, means={"tof": 0.5}))
    new = replace(new, artifact=replace(new.artifact, sha256="00" * 32))
    old = row("live", 20.0, quality=QUALITY)
    (pair,) = compare(record(old, clip=CLIP), record(new, clip=CLIP)).pairs
    assert not pair.same_file
    assert any("100 to 50 MiB (-50%)" in change for change in pair.changes)
    assert "tof: 0.375 to 0.500" in pair.changes
    (pair,) = compare(record(old, clip=CLIP), record(new)).pairs
    assert any("different clips" in change for change in pair.changes)


# --- conditions that fail ----------------------------------------------------------------------


def test_conditions() -> None:
    found = whole()
    for text, fails in (("p99_ms>40", False), ("p99_ms > 20", True), ("psnr_drop>0.3", True),
                        ("psnr_drop>=0.51", False), ("pipeline_fps<1", True),
                        ("fps<60", True), ("peak_mib>1e3", False),
                        ("roofline<0.6", True), ("outliers!=0", False)):  # fmt: skip
        failed = fail_if.parse(text).failures(found)
        assert bool(failed) == fails, text
        assert all("live on onnxruntime" in line for line in failed)


def test_what_was_not_measured_does_not_pass() -> None:
    (line,) = fail_if.parse("psnr<0").failures(whole())
    assert "psnr was not measured" in line
    engine = Static(
        artifact=replace(FILE, file="live.plan"), size="45x80", macs=1, weights=1, activations=1,
        why="built for SM 89",
    )  # fmt: skip
    (line,) = fail_if.parse("p99_ms>40").failures(record(static=(engine,)))
    assert line == "live.plan: p99_ms was not measured: built for SM 89"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("p99>40", "the nearest is p99_ms"),
        ("p99ms>40", "the nearest is p99_ms"),
        ("psnr_dorp>1", "the nearest is psnr_drop"),
        ("p99_ms>fast", "is no condition"),
        ("p99_ms", "is no condition"),
        ("p99_ms=40", "is no condition"),
        ("psnr<30", "needs a clip"),
    ],
)
def test_conditions_that_are_none(text: str, words: str) -> None:
    with pytest.raises(TecoError, match="--fail-if") as refused:
        fail_if.parse(text, clip=False)
    assert words in refused.value.message
    assert refused.value.exit_code == USAGE


# --- warnings and the catalogue ----------------------------------------------------------------


def test_warnings() -> None:
    def codes(*rows: Row, **fields: Any) -> set[str]:
        return {w.code for w in warnings_of(record(*rows, **fields))}

    calm = record().conditions
    many = row("live", 20.0)
    assert many.latency is not None
    many = replace(many, latency=replace(many.latency, host=samples_of([[20.0] * 10] * 10)))
    assert codes(many) == set()
    assert codes(row("live", 20.0)) == {"few"}
    assert codes(many, conditions=replace(calm, load_before=5.0)) == {"busy"}
    assert codes(many, conditions=replace(calm, busy_share=0.5)) == {"busy"}
    assert codes(many, conditions=replace(calm, throttled=3)) == {"throttled"}
    assert codes(many, conditions=replace(calm, governor="powersave")) == {"clock"}
    assert codes(many, conditions=replace(calm, timer_overhead_ns=1e6)) == {"clock"}

    def with_samples(blocks: list[list[float]], stable: bool = True) -> Row:
        assert many.latency is not None
        up = WarmUp(steps=2, stable=stable, ms=(1.0,))
        return replace(many, latency=replace(many.latency, host=samples_of(blocks), warm_up=up))

    assert codes(with_samples([[20.0] * 10] * 8 + [[40.0] * 10] * 2)) >= {"outliers"}
    assert codes(with_samples([[20.0] * 50, [22.0] * 50])) == {"drift"}
    assert codes(with_samples([[20.0] * 100], stable=False)) == {"unstable"}


def test_the_catalogue_is_welcome() -> None:
    """Whatever has been added by pull request."""
    for path in sorted(catalogue.FOLDER.glob("*.json")):
        assert catalogue.complaints(path) == (), path


def test_the_catalogue_command(tmp_path: Path, teco) -> None:
    done = teco("catalogue", "check")
    done.says()
    assert done.stdout.decode().count(": accepted") == len(list(catalogue.FOLDER.glob("*.json")))
    store.write(tmp_path / "mine.json", whole())
    done = teco("catalogue", "check", tmp_path / "mine.json")
    done.refuses(1, "1 record")
    assert "mine.json: refused\n  it should be called" in done.stdout.decode()
    printed = teco("catalogue", "schema").stdout
    assert json.loads(printed) == schema.schema()


def test_the_catalogue_refuses_what_would_mislead(tmp_path: Path) -> None:
    from teco.model.opening import open_model

    manifest = open_model("live").manifest
    assert manifest is not None
    good = replace(row("live", 20.0), artifact=replace(FILE, sha256=manifest.sha256))
    noise = whole().noise

    def complaints(one: Record, name: str = "amd-epyc-9v74-45x80.json") -> str:
        path = tmp_path / name
        store.write(path, one)
        return "; ".join(catalogue.complaints(path))

    assert complaints(record(good, noise=noise)) == ""
    form = open_model("real-cpu").form("openvino").manifest
    assert form is not None
    other = replace(
        row("real-cpu", 20.0), artifact=replace(FILE, name="real-cpu", sha256=form.sha256)
    )
    assert complaints(record(other, noise=noise)) == "", (
        "the form that OpenVINO takes is shipped too"
    )
    assert "should be called amd-epyc-9v74-45x80.json" in complaints(
        record(good, noise=noise), "mine.json"
    )
    assert "is not the one that this teco ships" in complaints(
        record(row("live", 20.0), noise=noise)
    )
    assert "only shipped models" in complaints(record(row("mine", 20.0), noise=noise))
    assert "not complete: at lunch" in complaints(
        record(good, noise=noise, complete=False, stopped="at lunch")
    )
    assert "no noise floor" in complaints(record(good))
    assert "names a path" in complaints(record(good, noise=noise, command="teco bench /home/x"))
    busy = record(good, noise=noise, conditions=replace(record().conditions, load_before=9.0))
    assert "was busy" in complaints(replace(busy, warnings=warnings_of(busy)))
