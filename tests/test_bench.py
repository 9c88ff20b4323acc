"""The benchmark measures what it says, and says what it measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from time import perf_counter, sleep

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from teco import machine
from teco.artifact import open_model
from teco.bench import memory
from teco.bench.measure import BLOCK, measure_latency, warnings_for
from teco.bench.render import bench_table
from teco.bench.report import BenchReport, Candidate, percentile
from teco.errors import TecoError


@given(st.lists(st.floats(0.001, 10), min_size=1, max_size=50), st.floats(0.01, 1))
def test_percentile_is_the_nearest_rank(values: list[float], share: float) -> None:
    found = percentile(tuple(values), share)
    assert found in values
    assert sum(v <= found for v in values) >= share * len(values)
    smaller = [v for v in values if v < found]
    if smaller:
        assert sum(v <= max(smaller) for v in values) < share * len(values)


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


def test_candidates_are_interleaved_and_every_sample_is_kept() -> None:
    log: list[str] = []
    slow, fast = Sleeper("slow", 0.004, log), Sleeper("fast", 0.001, log)
    found = measure_latency([(Named(), slow), (Named(), fast)], (8, 8), repetitions=7)  # type: ignore[list-item]
    assert [len(c.samples) for c in found] == [7, 7]
    assert all(0.004 <= s < 0.05 for s in found[0].samples)
    assert found[1].p50 < found[0].p50
    # After one first step and the warm-up of each, blocks in turn.
    measured = log[-14:]
    assert measured[:BLOCK] == ["slow"] * BLOCK
    assert measured[BLOCK : 2 * BLOCK] == ["fast"] * BLOCK
    assert measured[-2:] == ["slow", "fast"]
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


def candidate(samples: tuple[float, ...]) -> Candidate:
    return Candidate("m", "r", "d", samples, 0.1, 0.2)


def test_warnings() -> None:
    calm, wild = candidate((1.0,) * 100), candidate((1.0,) * 80 + (2.0,) * 20)
    assert warnings_for([calm], 0.0) == []
    assert any("varies widely" in w for w in warnings_for([wild], 0.0))
    assert any("busy" in w for w in warnings_for([calm], 1e3))
    assert any("p99" in w for w in warnings_for([candidate((1.0,) * 10)], None))


def test_table_and_record_hold_the_same_figures() -> None:
    one = replace(candidate((0.010, 0.020, 0.030, 0.040)), peak_bytes=3 << 20, base_bytes=1 << 20)
    report = BenchReport("16x24", 2, (one,), (), machine.inspect())
    record = report.as_dict()["candidates"][0]
    assert record["samples"] == (0.010, 0.020, 0.030, 0.040)
    assert (record["p50"], record["p90"], record["p99"]) == (0.020, 0.040, 0.040)
    text = bench_table(report)
    for figure in ("20.0", "40.0", "50.00", " 3 "):
        assert figure in text
    assert max(len(line) for line in text.splitlines()) <= 100


def test_memory_is_of_a_process_of_its_own(tiny_onnx: Path) -> None:
    """Larger frames take more, and what this process holds does not count."""
    ballast = np.ones(100_000_000, np.uint8)
    small = memory.measure(str(tiny_onnx), "onnxruntime", (16, 24), 1)
    large = memory.measure(str(tiny_onnx), "onnxruntime", (160, 240), 1)
    if small[0] is None or large[0] is None:
        pytest.skip("this system does not tell a process's memory")
    assert small[1] is not None
    assert small[1] < small[0] < large[0]
    state = 3 * 16 * 160 * 240 * 4
    assert large[0] - small[0] > state
    own = memory.resident_bytes()
    assert own is not None
    assert small[1] < own + ballast.nbytes
    assert memory.measure("no such model", "onnxruntime", (16, 24), 1) == (None, None)


def test_bench_command(teco, tiny_onnx: Path, tmp_path: Path, make_clip) -> None:
    clip = make_clip(tmp_path / "truth.mp4", width=112, height=96, frames=7)
    record_file = tmp_path / "bench.json"
    began = perf_counter()
    arguments = ("--runtime", "onnxruntime", "--repetitions", "5", "--threads", "1")
    done = teco(
        "bench",
        tiny_onnx,
        "--clip",
        clip,
        "--metrics",
        "psnr,ssim",
        "--json",
        record_file,
        *arguments,
    )
    assert done.code == 0, done.stderr
    record = json.loads(record_file.read_text())
    assert record["size"] == "24x28"
    (one,) = record["candidates"]
    assert len(one["samples"]) == 5
    assert sum(one["samples"]) < perf_counter() - began
    assert [row["method"] for row in record["quality"]] == ["tiny", "bicubic", "bilinear"]
    out = done.stdout.decode()
    assert f"{one['p50'] * 1e3:.1f}" in out
    assert f"{record['quality'][1]['frame_average']['psnr']:.2f}" in out
    assert "bilinear" in out


def test_bench_names_what_it_did_not_run(teco, tiny_onnx: Path) -> None:
    done = teco("bench", tiny_onnx, "--size", "16x24", "--repetitions", "1", "--threads", "1")
    assert done.code == 0, done.stderr
    assert "not run: tiny on pytorch: pytorch runs weights" in done.stderr
    assert "onnxruntime" in done.stdout.decode()


def test_metrics_that_cannot_be_computed_are_said_before_measuring(
    teco, tiny_onnx: Path, tmp_path: Path, make_clip, monkeypatch
) -> None:
    monkeypatch.setenv("TECO_CACHE", str(tmp_path / "empty"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    clip = make_clip(tmp_path / "truth.mp4", width=112, height=96, frames=7)
    done = teco("bench", tiny_onnx, "--clip", clip, "--metrics", "lpips")
    done.refuses(3, "lpips")
    assert "timing" not in done.stderr


# --- the gate --------------------------------------------------------------------------------


def test_candidates_are_judged(tiny_onnx, tiny_weights, tmp_path, make_clip) -> None:
    """Beside the float32 step of the weights: what is right passes, what was bent does not."""
    from teco.bench.gate import judge
    from teco.runtimes import find

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
    bent = judge(replace(model, weights=tiny_weights), Bent(), clip=str(clip))  # type: ignore[arg-type]
    assert bent.verdict is not None
    assert bent.verdict.bounds.name.startswith("int8"), "judged by what its precision costs"
    assert bent.verdict.numbers.on_truth
    assert max(bent.verdict.numbers.max_steps) >= 2
    record = BenchReport("1x1", 1, (), (), machine.inspect(), gate=(nowhere, bent)).as_dict()
    assert record["gate"][0]["verdict"] is None
    assert record["gate"][1]["verdict"]["bounds"]["name"].startswith("int8")


def test_the_gate_in_the_command(teco, tiny_weights) -> None:
    done = teco(
        "bench", tiny_weights, "--runtime", "pytorch", "--size", "16x24", "--repetitions", 1,
        "--gate",
    )  # fmt: skip
    assert done.code == 0, done.stderr
    text = done.stdout.decode()
    assert "accepted" in text
    assert "the temporal gate, beside the float32 step on pytorch" in text
