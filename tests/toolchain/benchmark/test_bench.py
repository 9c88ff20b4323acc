"""The benchmark measures what it says, and keeps what it measured whatever happens."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import numpy as np
import pytest

from teco.benchmark.measure import worker as worker_module
from teco.benchmark.measure.candidates import choose
from teco.benchmark.measure.process import WorkerError, WorkerProcess
from teco.benchmark.measure.roofline import roofline, work_of
from teco.benchmark.measure.worker_pool import WorkerPool
from teco.benchmark.record import store
from teco.core import machine
from teco.core.errors import TecoError
from teco.measurement import conditions, memory
from teco.measurement.interleaving import USUAL_BLOCK
from teco.measurement.latency import StepTimer, measure_latency
from teco.model.opening import open_model
from teco.runtimes import SessionOptions, find


class Sleeper:
    """A runtime whose step sleeps, and that notes when it ran."""

    exact = True
    suffixes = (".onnx",)
    details = "asleep"

    def __init__(self, name: str, seconds: float, log: list[str]) -> None:
        self.name = self.runtime = name
        self.seconds = seconds
        self.log = log
        self.closed = False

    def open(self, model: object, options: object) -> Sleeper:
        return self

    def step(self, lr: np.ndarray, state: object) -> tuple[np.ndarray, object]:
        self.log.append(self.name)
        sleep(self.seconds)
        return lr, state

    def close(self) -> None:
        self.closed = True


class Named:
    name = "model"
    manifest = None


# --- in this process, for other commands -------------------------------------------------------


def test_candidates_are_interleaved_and_every_sample_is_kept(monkeypatch) -> None:
    monkeypatch.setattr("teco.measurement.interleaving.lead_in", lambda step_ms: 1)
    log: list[str] = []
    slow, fast = Sleeper("slow", 0.004, log), Sleeper("fast", 0.001, log)
    found = measure_latency([(Named(), slow), (Named(), fast)], (8, 8), repetitions=16)  # type: ignore[list-item]
    samples = [one.latency.host.all for one in found.results]
    assert [len(s) for s in samples] == [16, 16]
    # Not how much longer: another program may have run in between.
    assert all(ms >= 4 for ms in samples[0])
    assert all(ms >= 1 for ms in samples[1])
    # After one first step and the warm-up of each, rounds of one block of each, led in by a step.
    sizes = (*[USUAL_BLOCK + 1] * 5, 2)
    steps = iter(log[-2 * sum(sizes) :])
    for size in sizes:
        blocks = [tuple(islice(steps, size)) for _ in range(2)]
        assert set(blocks) == {("slow",) * size, ("fast",) * size}
    assert slow.closed
    assert fast.closed


def test_sessions_are_closed_when_a_step_fails() -> None:
    good, bad = Sleeper("good", 0, []), Sleeper("bad", 0, [])

    def fail(*_: object) -> None:
        raise TecoError("no")

    bad.step = fail  # type: ignore[method-assign]
    with pytest.raises(TecoError):
        measure_latency([(Named(), good), (Named(), bad)], (8, 8), repetitions=2)  # type: ignore[list-item]
    assert good.closed


def test_other_commands_warn_as_the_bench_does(monkeypatch) -> None:
    """The same codes, of the machine and of the candidates."""
    monkeypatch.setattr("teco.measurement.conditions.load", lambda: 1e3)
    run = measure_latency([(Named(), Sleeper("r", 0.001, []))], (8, 8), repetitions=3)  # type: ignore[list-item]
    assert {w.code for w in run.warnings} >= {"busy", "few"}


# --- processes of the candidates' own -------------------------------------------------------------


@pytest.fixture
def worker() -> Iterator[WorkerProcess]:
    one = WorkerProcess("the candidate", 1)
    yield one
    one.close()


def opened(
    worker: WorkerProcess, spec: object, h: int, w: int, runtime: str = "onnxruntime"
) -> None:
    worker.ask("prepare", runtime=runtime, affinity=[], threads=1)
    worker.ask("open", spec=str(spec), runtime=runtime, size=[h, w], threads=1)


def test_a_worker_measures(worker: WorkerProcess, tiny_onnx: Path) -> None:
    """Steps, and memory that is its own: what this process holds does not count."""
    ballast = np.ones(200_000_000, np.uint8)
    opened(worker, tiny_onnx, 160, 240)
    began = perf_counter()
    block = worker.steps(4)
    assert len(block.host) == 4
    assert 0 < sum(block.host) <= 1000 * (perf_counter() - began)
    assert block.device == ()
    found = worker.ask("memory")
    if found["peak"] is None:
        pytest.skip("this system does not tell a process's memory")
    assert found["steps"] == 5
    assert found["base"] < found["peak"] < found["base"] + ballast.nbytes
    own = memory.resident_bytes()
    assert own is not None
    assert found["base"] < own
    assert found["peak"] - found["base"] > 3 * 16 * 160 * 240 * 4, "the state at least"
    grown = worker.ask("growth", size=[16, 24], frames=60, budget_ms=1e6)["private"]
    assert len(grown) == 60
    per_1000 = memory.growth_per_1000(grown)
    assert per_1000 is not None
    assert per_1000 < 10 << 20
    assert memory.growth_per_1000(list(range(0, 50_000, 1000))) == 1_000_000


def test_events_of_a_gpu_stand_beside_the_hosts_clock() -> None:
    """A session that tells the GPU's own time of its last step is asked after each."""

    class OnGpu:
        last_step_ms = 0.5

    session = OnGpu()

    def step(state: int | None) -> int:
        session.last_step_ms += 0.25
        return (state or 0) + 1

    timer = StepTimer(session, step)  # type: ignore[arg-type]
    found = timer.steps(3)
    assert found.device == (0.75, 1.0, 1.25)
    assert len(found.host) == 3
    assert timer._state == 3


def test_a_worker_that_fails_says_why(worker: WorkerProcess) -> None:
    worker.ask("prepare", runtime="onnxruntime", affinity=[], threads=1)
    with pytest.raises(WorkerError, match="no model is called 'nobody'") as refused:
        worker.ask("open", spec="nobody", runtime="onnxruntime", size=[16, 24], threads=1)
    assert refused.value.exit_code == 2
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(WorkerError, match="the process of the candidate ended with signal 9"):
        worker.steps(1)


def test_a_candidate_that_dies_takes_no_other_with_it(
    tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from teco.benchmark import batch
    from teco.benchmark.options import BenchOptions
    from teco.benchmark.run import Bench

    selection = choose([str(tiny_onnx), "live"], ["onnxruntime"], (16, 24), machine.inspect())
    bench = Bench(
        selection, BenchOptions(threads=1, repetitions=9, latency_only=True), machine.inspect()
    )
    real = batch.BatchRun._time_steps

    def and_kill(self: batch.BatchRun, pool: WorkerPool, *rest: Any) -> None:
        os.kill(pool.runners[1].process.pid, signal.SIGKILL)
        real(self, pool, *rest)

    monkeypatch.setattr(batch.BatchRun, "_time_steps", and_kill)
    record = bench.run()
    first, second = record.rows
    assert first.latency is not None
    assert first.latency.host.summary.count == 9
    assert second.latency is None
    assert "signal 9" in second.notes[0]
    assert record.complete


def test_memory_is_left_to_groups() -> None:
    """What does not fit side by side runs one after the other."""
    from teco.benchmark.measure.worker_pool import batches

    selection = choose(["live"], ["onnxruntime", "openvino"], (45, 80), machine.inspect())
    assert [len(g) for g in batches(selection.candidates, 1 << 40)] == [2]
    assert [len(g) for g in batches(selection.candidates, 1)] == [1, 1]
    assert batches((), None) == []


def test_conditions() -> None:
    usable = sorted(os.sched_getaffinity(0))
    assert conditions.processors(len(usable)) == tuple(usable)
    assert len(conditions.processors(1)) == 1
    overhead, resolution = conditions.timer_overhead_ns(200)
    assert 0 < overhead < 1e5
    assert 0 < resolution < 1e6
    before = conditions.processor_times([])
    began = perf_counter()
    while perf_counter() - began < 0.3:
        pass
    share = conditions.busy_share(before, conditions.processor_times([]))
    assert share is not None
    assert 0 <= share <= 1
    own = conditions.ProcessorTimes(100, 50, {1: 30, 2: 10})
    assert conditions.busy_share(conditions.ProcessorTimes(0, 0, {}), own) == pytest.approx(0.1)
    earlier = conditions.ProcessorTimes(0, 0, {1: 0, 2: 0, 3: 90})
    ended = conditions.ProcessorTimes(100, 50, {1: 30, 2: 10, 3: 0})
    assert conditions.busy_share(earlier, ended) == pytest.approx(0.1)


def test_a_roofline_is_work_at_the_ceilings() -> None:
    from teco.benchmark.measure.ceilings import measure

    model = open_model("live")
    work = work_of(model, "fp32", (45, 80))
    assert work.macs == model.variant.cost(45, 80).executed_macs["total"]
    assert work.bytes > 3 * 17 * 45 * 80 * 4 + work.weights, "frame, picture and state"
    assert work.tensor_bytes > work.bytes
    assert work_of(model, "bf16", (45, 80)).weights < work.weights
    gemm, copy = measure("onnxruntime", "cpu", "fp32", 1)
    assert (gemm.kind, gemm.precision, copy.kind) == ("gemm", "fp32", "copy")
    # What one core of any machine that runs this does, roughly, and bytes a second.
    assert 1e8 < gemm.value < 1e13
    assert 1e8 < copy.value < 1e13
    found = roofline(work, (gemm, copy), 0, 1, 2000 * work.macs / gemm.value)
    assert found.bound == "compute"
    assert found.share == pytest.approx(0.5)


def test_a_matrix_product_as_onnx_multiplies() -> None:
    import onnxruntime as ort

    from teco.benchmark.measure.onnx_matmul import matmul_model

    rng = np.random.default_rng(0)
    for precision, kinds in (("fp32", (np.float32, np.float32)), ("int8", (np.uint8, np.int8))):
        a, b = (rng.integers(0, 100, (64, 64)).astype(k) for k in kinds)
        session = ort.InferenceSession(
            matmul_model(64, precision, b), providers=["CPUExecutionProvider"]
        )
        (c,) = session.run(None, {"a": a})
        np.testing.assert_array_equal(c, a.astype(np.int64) @ b.astype(np.int64))


# --- who takes part ----------------------------------------------------------------------------


def test_the_family_shares_speed_by_graph_only() -> None:
    selection = choose(
        ["teco-x4-b1-c64-bp-lk", "teco-x4-b1-c64-bp-lk-gan", "live"], ["onnxruntime", "pytorch"],
        (45, 80), machine.inspect(), share=True,
    )  # fmt: skip
    shared = {one.key: one.same_as for one in selection.candidates if one.same_as}
    assert shared == {
        f"teco-x4-b1-c64-bp-lk-gan on {r}": f"teco-x4-b1-c64-bp-lk on {r}"
        for r in ("onnxruntime", "pytorch")
    }
    kinds = {one.runtime.name: one.artifact.kind for one in selection.candidates}
    assert kinds == {"onnxruntime": "onnx", "pytorch": "weights"}


def test_the_same_model_twice_has_two_keys(tiny_onnx: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    for suffix in (".onnx", ".json"):
        shutil.copy(tiny_onnx.with_suffix(suffix), tmp_path / "other")
    specs = [str(tiny_onnx), str(tmp_path / "other" / "tiny.onnx"), str(tiny_onnx)]
    selection = choose(specs, ["onnxruntime"], (16, 24), machine.inspect())
    assert len({one.key for one in selection.candidates}) == 3
    # The charts and the pictures of a report are known by the model's name.
    assert len({one.model.name for one in selection.candidates}) == 3
    assert len({one.artifact.name for one in selection.candidates}) == 3
    twice = choose([str(tiny_onnx)], ["onnxruntime", "onnxruntime"], (16, 24), machine.inspect())
    assert len(twice.candidates) == 1


def test_the_same_model_twice_is_two_rows_with_figures_of_their_own(
    teco, tiny_onnx: Path, tmp_path: Path, make_clip
) -> None:
    clip = make_clip(tmp_path / "truth.mp4", width=112, height=96, frames=6)
    done = teco(
        "bench", tiny_onnx, tiny_onnx, "--runtime", "onnxruntime", "--repetitions", 1,
        "--threads", 1, "--kernel-only", "--metrics", "psnr", "--clip", clip,
        "--json", tmp_path / "r.json",
    )  # fmt: skip
    assert done.code == 0, done.stderr
    rows = store.read(tmp_path / "r.json").rows
    assert [row.quality.method for row in rows if row.quality] == [
        f"{tiny_onnx} #1", f"{tiny_onnx} #2",
    ]  # fmt: skip


def test_memory_of_a_gpu_is_the_candidates_own(tiny_onnx: Path, monkeypatch) -> None:
    """Not what those that were opened after it took; by process where the driver tells."""
    free = iter([1000, 400])
    monkeypatch.setattr(worker_module.memory, "gpu_free_bytes", lambda: next(free))
    monkeypatch.setattr(worker_module.gpu, "process_bytes", lambda pid: None)
    worker = worker_module.Worker()
    worker.prepare(runtime="onnxruntime", affinity=[], threads=1)
    worker.open(spec=str(tiny_onnx), runtime="onnxruntime", size=[16, 24], threads=1)
    assert worker.memory()["device"] == 600
    monkeypatch.setattr(worker_module.gpu, "process_bytes", {os.getpid(): 77}.get)
    assert worker.memory()["device"] == 77


def test_engines_for_another_gpu_are_told_and_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their static facts show, with the sentence why."""
    from teco.benchmark.measure import candidates as module
    from teco.benchmark.measure.candidates import static_of

    model = open_model("live")
    engine = find("tensorrt-rtx")
    monkeypatch.setattr(module, "open_model", lambda spec: model)
    monkeypatch.setattr(module, "of_engine", lambda model: engine)
    monkeypatch.setattr(module, "_why_not_here", lambda engine, model: "built for SM 89")
    found = choose(["live.plan"], ["all"], (45, 80), machine.inspect())
    assert found.candidates == ()
    assert found.static == (static_of(model, (45, 80), "built for SM 89"),)
    assert found.static[0].macs == model.variant.cost(45, 80).executed_macs["total"]


# --- the command -------------------------------------------------------------------------------


def test_bench_command(teco, tiny_onnx: Path, tmp_path: Path, make_clip) -> None:
    clip = make_clip(tmp_path / "truth.mp4", width=112, height=96, frames=7)
    record_path = tmp_path / "bench.json"
    done = teco(
        "bench", tiny_onnx, "--runtime", "onnxruntime", "--repetitions", 5, "--threads", 1,
        "--budget", 1, "--clip", clip, "--metrics", "psnr,ssim", "--json", record_path,
        "--fail-if", "p99_ms>60000",
    )  # fmt: skip
    assert done.code == 0, done.stderr
    record = store.read(record_path)
    assert record.complete
    (row,) = record.rows
    assert row.size == "24x28"
    assert row.latency is not None
    assert row.latency.host.summary.count == 5
    for part in (row.end_to_end, row.playback, row.memory, row.roofline, row.quality):
        assert part is not None, row.notes
    assert row.end_to_end is not None
    assert row.end_to_end.frames == 3
    assert row.playback is not None
    assert row.playback.shown + row.playback.late + row.playback.dropped == row.playback.frames
    assert row.memory is not None
    assert row.memory.growth_per_1000 is not None
    assert [q.method for q in record.interpolations] == ["bicubic", "bilinear"]
    assert len(record.noise) == 1
    assert record.clip is not None
    assert (record.clip.width, record.clip.height) == (112, 96)
    out = done.stdout.decode()
    assert f"{record.interpolations[0].means['psnr']:.2f}" in out
    assert "timing steps" in done.stderr


def test_bench_names_what_it_did_not_run(teco, tiny_onnx: Path) -> None:
    done = teco(
        "bench", tiny_onnx, "--size", "16x24", "--repetitions", 1, "--threads", 1, "--latency-only",
        "--details",
    )  # fmt: skip
    assert done.code == 0, done.stderr
    assert "Not run: tiny on pytorch: pytorch runs weights" in done.stdout.decode()
    assert "onnxruntime" in done.stdout.decode()


def test_a_reader_that_has_left_costs_no_record(
    teco, tiny_onnx: Path, tmp_path: Path, monkeypatch
) -> None:
    def gone(*_: object, **__: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("teco.cli.measure.bench.click.echo", gone)
    teco(
        "bench", tiny_onnx, "--size", "16x24", "--repetitions", 1, "--threads", 1, "--latency-only",
        "--runtime", "onnxruntime", "--json", tmp_path / "r.json",
    )  # fmt: skip
    assert store.read(tmp_path / "r.json").complete


def test_conditions_fail_the_command_with_the_row(teco, tiny_onnx: Path) -> None:
    arguments = ("bench", tiny_onnx, "--size", "16x24", "--repetitions", 1, "--threads", 1,
                 "--latency-only", "--runtime", "onnxruntime")  # fmt: skip
    done = teco(*arguments, "--fail-if", "p99_ms<60000", "--fail-if", "fps>1e9")
    assert done.code == 1
    assert "tiny on onnxruntime: p99_ms is" in done.stderr
    assert "fails p99_ms<60000" in done.stderr
    assert "fps" not in done.stderr.splitlines()[-1]
    teco(*arguments, "--fail-if", "p99>1").refuses(2, "the nearest is p99_ms")
    teco(*arguments, "--fail-if", "psnr<1").refuses(2, "needs a clip")
    teco(*arguments, "--fail-if", "dropped>1").refuses(2, "--latency-only")


def test_what_cannot_be_done_is_said_before_measuring(
    teco, tiny_onnx: Path, tmp_path: Path, make_clip, monkeypatch
) -> None:
    monkeypatch.setenv("TECO_CACHE", str(tmp_path / "empty"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    clip = make_clip(tmp_path / "truth.mp4", width=112, height=96, frames=7)
    teco("bench", tiny_onnx, "--clip", clip, "--metrics", "lpips").refuses(3, "lpips")
    teco("bench", tiny_onnx, "--family").refuses(2, "--family")
    teco("bench", tiny_onnx, "--fit").refuses(2, "--fit needs --clip")
    teco("bench", tiny_onnx, "--shrink", 2).refuses(2, "--shrink needs --clip")
    teco("bench", tiny_onnx, "--frames", 2).refuses(2, "--frames needs --clip")
    teco("bench", tiny_onnx, "--budget", "inf").refuses(2, "--budget")
    teco("bench", tiny_onnx, "--budget", "nan").refuses(2, "--budget")
    nowhere = tmp_path / "no" / "r.json"
    teco("bench", tiny_onnx, "--json", nowhere).refuses(2, "does not exist")
    teco("bench", tiny_onnx, "--json", "/proc/teco.json").refuses(2, "cannot be written")


def test_clips_of_another_size_than_a_static_file(
    teco, tiny_weights: Path, tmp_path: Path, make_clip
) -> None:
    pytest.importorskip("onnxscript")
    from teco.exporting.onnx import ExportOptions, export_onnx
    from teco_models.checkpoint import load_weights

    options = ExportOptions(name="static", size=(16, 24))
    path = export_onnx(load_weights(tiny_weights), tmp_path, options)
    clip = make_clip(tmp_path / "truth.mp4", width=112, height=96, frames=7)
    arguments = ("bench", path, "--runtime", "onnxruntime", "--repetitions", 1, "--threads", 1,
                 "--clip", clip, "--metrics", "psnr", "--latency-only")  # fmt: skip
    teco(*arguments).refuses(2, "was exported for 16x24", "--fit resizes the clip")
    done = teco(*arguments, "--fit", "--json", tmp_path / "r.json")
    assert done.code == 0, done.stderr
    record = store.read(tmp_path / "r.json")
    assert record.clip is not None
    assert (record.clip.width, record.clip.height) == (96, 64)
    assert record.clip.fitted
    assert record.rows[0].size == "16x24"


@pytest.mark.slow
def test_the_gate_takes_a_clip_as_quality_does(
    teco, tiny_weights: Path, tmp_path: Path, make_clip
) -> None:
    """A clip that has its truth beside it is enlarged, not degraded once more."""
    low = make_clip(tmp_path / "low.mp4", width=24, height=16, frames=4)
    truth = make_clip(tmp_path / "truth.mp4", width=96, height=64, frames=4)
    done = teco(
        "bench", tiny_weights, "--runtime", "pytorch", "--repetitions", 1, "--threads", 1,
        "--latency-only", "--gate", "--metrics", "psnr", "--clip", low, "--truth", truth,
        "--json", tmp_path / "r.json",
    )  # fmt: skip
    assert done.code == 0, done.stderr
    (judged,) = store.read(tmp_path / "r.json").gate
    assert judged["verdict"]["numbers"]["on_truth"]
    text = done.stdout.decode()
    assert ("accepted" if judged["verdict"]["accepted"] else "refused") in text
    assert "the temporal gate, beside the float32 step on pytorch" in text


def test_what_fails_after_the_steps_keeps_them(
    teco, tiny_onnx: Path, tmp_path: Path, make_clip, monkeypatch
) -> None:
    from teco.benchmark.quality.clip import TruthClip
    from teco_calibration.errors import ClipError

    def torn(_: TruthClip) -> Iterator[Any]:
        raise ClipError("truth.mp4 breaks off at frame 3")

    monkeypatch.setattr(TruthClip, "pairs", torn)
    clip = make_clip(tmp_path / "truth.mp4", width=112, height=96, frames=7)
    done = teco(
        "bench", tiny_onnx, "--runtime", "onnxruntime", "--repetitions", 1, "--threads", 1,
        "--latency-only", "--clip", clip, "--metrics", "psnr", "--json", tmp_path / "r.json",
    )  # fmt: skip
    assert done.code == 1
    assert "it failed at: quality of bicubic and bilinear: truth.mp4 breaks off" in done.stderr
    assert "tiny" in done.stdout.decode(), "the table"
    record = store.read(tmp_path / "r.json")
    assert not record.complete
    assert record.rows[0].latency is not None


def test_an_interrupted_bench_keeps_what_it_measured(
    tmp_path: Path, teco_environment: dict[str, str]
) -> None:
    path = tmp_path / "r.json"
    command = [
        sys.executable, "-m", "teco", "bench", "live", "--size", "16x24", "--runtime",
        "onnxruntime", "--repetitions", "9000", "--threads", "1", "--json", str(path),
    ]  # fmt: skip
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=teco_environment
    ) as process:
        assert process.stderr is not None
        said = ""
        while "timing steps" not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert "teco: interrupted at: timing steps" in err
    assert "r.json holds what was measured" in err
    record = store.read(path)
    assert not record.complete
    (row,) = record.rows
    assert row.latency is not None
    assert 0 < row.latency.host.summary.count < 9000
    assert "live" in out
    assert list(tmp_path.iterdir()) == [path]
    for line in err.splitlines():
        assert "Traceback" not in line


# --- against other ways to measure ---------------------------------------------------------------


@pytest.mark.slow
def test_the_kernel_is_what_a_loop_by_hand_says(worker: WorkerProcess) -> None:
    """In turns with it, on the same runtime; scripts/bench_method.py asks for 5% when idle.

    The quickest steps are compared: on a busy machine the others say how busy it is.
    """
    opened(worker, "live", 90, 160)
    session = find("onnxruntime").open(open_model("live"), SessionOptions(threads=1))
    frame = np.random.default_rng(0).random((1, 3, 90, 160), np.float32)
    state: Any = None
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(12):
        ours += worker.steps(5).host
        for _ in range(5):
            began = perf_counter()
            _, state = session.step(frame, state)
            theirs.append(1000 * (perf_counter() - began))
    session.close()
    fast = [np.quantile(x, 0.1) for x in (ours, theirs)]
    assert fast[0] == pytest.approx(fast[1], rel=0.25)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "pytorch"])
def test_memory_is_what_time_says(worker: WorkerProcess, runtime: str, tmp_path: Path) -> None:
    """/usr/bin/time -v of a program of its own that opens the model and makes as many steps."""
    program = Path("/usr/bin/time")
    if not program.exists():
        pytest.skip("GNU time is not installed")
    if reason := find(runtime).why_unavailable():
        pytest.skip(reason)
    opened(worker, "teco-x4-b3-c64-bp-lk", 90, 160, runtime)
    worker.steps(8)
    peak = worker.ask("memory")["peak"]
    if peak is None:
        pytest.skip("this system does not tell a process's memory")
    code = (
        "import numpy as np\n"
        "from teco.model.opening import open_model\n"
        "from teco.runtimes import SessionOptions, find\n"
        "model = open_model('teco-x4-b3-c64-bp-lk')\n"
        f"session = find({runtime!r}).open(model, SessionOptions(threads=1))\n"
        "frame = np.random.default_rng(0).random((1, 3, 90, 160), np.float32)\n"
        "state = None\n"
        "for _ in range(9):\n"
        "    _, state = session.step(frame, state)\n"
        # Not through the end of the interpreter, which touches 130 MB of PyTorch's libraries.
        "import os\n"
        "os._exit(0)\n"
    )
    done = subprocess.run(
        [program, "-v", sys.executable, "-P", "-c", code], capture_output=True, text=True,
        check=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    match = re.search(r"Maximum resident set size \(kbytes\): (\d+)", done.stderr)
    assert match is not None
    assert peak == pytest.approx(1024 * int(match[1]), rel=0.05)


# --- the gate ----------------------------------------------------------------------------------


def test_candidates_are_judged(tiny_onnx, tiny_weights, tmp_path, make_clip) -> None:
    """Beside the float32 step of the weights: what is right passes, what was bent does not."""
    from teco.benchmark.quality.clip import open_truth
    from teco.benchmark.quality.gate import judge

    model = open_model(str(tiny_onnx))
    runtime = find("onnxruntime")
    nowhere = judge(model, runtime)
    assert nowhere.verdict is None
    assert "weights that are not shipped" in nowhere.note
    honest = judge(replace(model, weights=tiny_weights), runtime)
    assert honest.verdict is not None
    assert honest.verdict.accepted
    assert honest.verdict.bounds.name == "fp32"
    assert honest.reference == "pytorch"

    class Bent:
        """A runtime that brightens by two steps and says so of its precision."""

        name, exact = "bent", False

        def open(self, model: object, options: object) -> object:
            session = runtime.open(model, options)  # type: ignore[arg-type]
            step = session.step

            def brighter(lr: np.ndarray, state: object) -> tuple[np.ndarray, object]:
                hr, state = step(lr, state)
                return hr + np.float32(2 / 255), state

            session.step = brighter  # type: ignore[method-assign]
            return session

    clip = make_clip(tmp_path / "clip.mp4", width=96, height=80, frames=6)
    bent = judge(replace(model, weights=tiny_weights), Bent(), clip=open_truth(clip))  # type: ignore[arg-type]
    assert bent.verdict is not None
    assert bent.verdict.bounds.name.startswith("int8"), "judged by what its precision costs"
    assert bent.verdict.numbers.on_truth
    assert max(bent.verdict.numbers.max_steps) >= 2
    assert nowhere.as_dict()["verdict"] is None
    assert json.loads(json.dumps(bent.as_dict()))["verdict"]["bounds"]["name"].startswith("int8")
