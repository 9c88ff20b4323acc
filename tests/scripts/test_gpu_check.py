"""scripts/gpu_check.py: its order, its budget, what is left when something breaks; without a GPU.

Stages are stand-ins that write, hang, crash or start others; one test has the real ones on the CPU.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from paths import SCRIPTS

from teco.runtimes import find

SCRIPT = SCRIPTS / "gpu_check.py"
MODEL = "real-cpu"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_check"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["gpu_check"]


def test_without_a_gpu_it_says_what_each_runtime_lacks(script: ModuleType, tmp_path: Path) -> None:
    if any(find(name).why_unavailable() is None for name in script.RUNTIMES):
        pytest.skip("a GPU runtime can run here")
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], capture_output=True, text=True, timeout=120, check=False,
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(script.RUNTIMES)
    assert all("needs" in line for line in lines)
    assert not list(tmp_path.iterdir())


# --- the order ------------------------------------------------------------------------------


def test_what_is_worth_most_comes_first(script: ModuleType) -> None:
    stages = script.plan(MODEL, script.RUNTIMES, ("1080p", "4k"))
    names = [s.name for s in stages]
    assert len(set(names)) == len(names)
    rows = [(s.kind, s.output, s.runtime, s.precision) for s in stages if s.row]
    steps = [row for row in rows if row[:2] == ("step", "1080p")]
    # Each runtime once before any has a second precision; float16 where it has that.
    assert steps[: len(script.RUNTIMES)] == [
        ("step", "1080p", "tensorrt-rtx", "fp16"), ("step", "1080p", "onnxruntime-cuda", "fp16"),
        ("step", "1080p", "pytorch-cuda", "fp32"), ("step", "1080p", "tensorrt", "fp16"),
        ("step", "1080p", "onnxruntime-rtx", "fp16"),
        ("step", "1080p", "onnxruntime-tensorrt", "fp32"),
    ]  # fmt: skip
    assert {row[3] for row in steps[len(script.RUNTIMES) :]} == {"fp32"}
    # 1080p whole before 4K, steps before pipelines; bench and tests with what is left.
    order = [(s.output, s.kind) for s in stages if s.row]
    assert list(dict.fromkeys(order)) == [
        ("1080p", "step"), ("1080p", "pipeline"), ("4k", "step"), ("4k", "pipeline"),
    ]  # fmt: skip
    assert [s.kind for s in stages[-2:]] == ["bench", "tests"]
    for n, stage in enumerate(stages):
        assert set(stage.needs) <= set(names[:n]), stage.name


# --- the budget -----------------------------------------------------------------------------


def test_stages_that_take_all_they_may_stay_within_the_budget(script: ModuleType) -> None:
    """And each runtime is met; those that take a fraction leave time for all."""
    stages = script.plan(MODEL, script.RUNTIMES, ("1080p", "4k"))

    def begun(takes) -> tuple[list[Any], float]:
        left, found = 480.0, []
        for n, stage in enumerate(stages):
            allowed = script.limit(stage, stages[n + 1 :], left)
            if allowed is not None:
                assert script.LEAST <= allowed <= left - script.RESERVE
                found.append(stage)
                left -= takes(stage, allowed)
        return found, left

    slow, left = begun(lambda stage, allowed: allowed)
    assert left >= script.RESERVE - 1e-9
    assert slow[0].kind == "export"
    usual, left = begun(lambda stage, allowed: min(allowed, script.WEIGHTS[stage.kind] / 4))
    assert usual == stages
    assert left > script.RESERVE
    assert script.limit(stages[0], stages[1:], script.RESERVE + script.LEAST - 0.1) is None


def test_what_others_need_may_take_longer(script: ModuleType) -> None:
    stages = script.plan(MODEL, script.RUNTIMES, ("1080p", "4k"))
    assert script.limit(stages[0], stages[1:], 480) >= 0.3 * (480 - script.RESERVE)
    first = next(n for n, s in enumerate(stages) if s.kind == "step")
    assert script.limit(stages[first], stages[first + 1 :], 480) < 60


# --- what breaks ----------------------------------------------------------------------------

WRITES = "import json, sys; open(sys.argv[1], 'w').write(json.dumps({0}))"
PROGRAMS = {
    "fine": WRITES.format({"host_ms": [2.0, 4.0, 3.0], "memory_bytes": 2**20}),
    "crashes": WRITES.format({"parity": {"frames": 3, "max_abs": 0.01, "min_psnr": 40.0}})
    + "; import os; os.abort()",
    "refuses": WRITES.format({"error": "glow cannot load it", "hint": "another"})
    + "; sys.exit(1)",
    "hangs": WRITES.format({"open_s": 1.5})
    + "; import subprocess, time; p = subprocess.Popen([sys.executable, '-c', 'import signal, "
    "time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)']); "
    "print(p.pid, flush=True); time.sleep(600)",
}  # fmt: skip


def stand_in(script: ModuleType, folder: Path, names: list[str], seconds: float = 60.0) -> Any:
    """A check whose stages are these programs, one runtime each."""
    stages = [script.Stage(kind="step", output="4k", runtime=n, precision="fp16") for n in names]

    def command(stage: Any, _limit: float, part: Path) -> list[str]:
        return [sys.executable, "-c", PROGRAMS[stage.runtime], str(part)]

    facts = {"model": MODEL, "gpus": [], "machine": {"cpu": "a CPU", "cores": 2},
             "budget_s": seconds, "began": "2026-01-01T00:00", "passed_s": 0.0}  # fmt: skip
    return script.Check(
        stages, seconds, command, folder, folder / "check.json", record=facts, say=lambda _: None
    )


def is_gone(process: int) -> bool:
    """Within two seconds, or it is a zombie that nobody waited for."""
    for _ in range(20):
        try:
            if " Z " in Path(f"/proc/{process}/stat").read_text():
                return True
        except OSError:
            return True
        time.sleep(0.1)
    return False


def test_a_crash_a_refusal_and_a_hang_cost_one_stage_each(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "limit", lambda stage, after, left: 8.0)
    check = stand_in(script, tmp_path, ["crashes", "hangs", "refuses", "fine"])
    check.run()
    record = json.loads((tmp_path / "check.json").read_text())
    states = {s["name"].split()[1]: (s["state"], s.get("reason")) for s in record["stages"]}
    assert states == {
        "crashes": ("crashed", "by SIGABRT"), "hangs": ("out of time", "stopped after 8 s"),
        "refuses": ("failed", "glow cannot load it"), "fine": ("done", None),
    }  # fmt: skip
    # What each had found before is kept, and what the hanging one had started is gone with it.
    rows = {row["runtime"]: row for row in record["rows"]}
    assert rows["crashes"]["parity"]["min_psnr"] == 40.0
    assert rows["hangs"]["open_s"] == 1.5
    assert rows["fine"]["host_ms"] == [2.0, 4.0, 3.0]
    assert not record["complete"]
    assert is_gone(int((tmp_path / "step-hangs-fp16-4k.log").read_text()))
    table = script.markdown(check.record)
    assert "| 4k | `fine` | fp16 | - | - | - | 3.00 | 4.00 | - | 1 | - |" in table
    assert "- step hangs fp16 4k: out of time" in table


def test_what_needs_a_stage_that_failed_is_left_out(script: ModuleType, tmp_path: Path) -> None:
    check = stand_in(script, tmp_path, ["crashes", "fine"])
    needs = (check.stages[0].name,)
    check.stages[1] = script.Stage(kind="step", output="4k", runtime="fine", needs=needs)
    check.run()
    assert check.record["stages"][1]["state"] == "left out"
    assert check.record["stages"][1]["reason"] == f"it needs {needs[0]}"


def test_the_record_is_whole_after_every_stage(script: ModuleType, tmp_path: Path) -> None:
    """Also before the first; complete only at the end."""
    seen: list[tuple[int, bool]] = []

    def look(_text: str) -> None:
        record = json.loads((tmp_path / "check.json").read_text())
        seen.append((sum(s.get("state") == "done" for s in record["stages"]), record["complete"]))

    check = stand_in(script, tmp_path, ["fine", "fine"])
    check.say = look
    check.run()
    assert seen == [(1, False), (2, False)]
    assert json.loads((tmp_path / "check.json").read_text())["complete"]


DRIVER = """
import signal, sys
from pathlib import Path
sys.path[:0] = [{scripts!r}, {here!r}]
import gpu_check, test_gpu_check
def stop(number, frame):
    raise gpu_check.Stopped(signal.Signals(number).name)
signal.signal(signal.SIGTERM, stop)
check = test_gpu_check.stand_in(gpu_check, Path({folder!r}), ["fine", "hangs", "fine"])
check.run()
print(gpu_check.markdown(check.record))
"""


def test_sigterm_leaves_a_whole_record_and_no_process(tmp_path: Path) -> None:
    here = str(Path(__file__).parent)
    support = os.pathsep.join([str(Path(__file__).parents[1] / "support"), *sys.path])
    process = subprocess.Popen(
        [sys.executable, "-c",
         DRIVER.format(scripts=str(SCRIPTS), here=here, folder=str(tmp_path))],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": support},
    )  # fmt: skip
    log = tmp_path / "step-hangs-fp16-4k.log"
    until = time.monotonic() + 60
    while not (log.exists() and log.read_text().endswith("\n")):
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    record = json.loads((tmp_path / "check.json").read_text())
    assert record["stopped"] == "SIGTERM"
    assert [s["state"] for s in record["stages"]] == ["done", "interrupted", "left out"]
    assert [r.get("open_s") for r in record["rows"]] == [None, 1.5]
    assert "| 4k | `fine` |" in said
    assert is_gone(int(log.read_text()))


# --- the numbers ----------------------------------------------------------------------------


def test_the_share_of_the_roofline(script: ModuleType) -> None:
    """5 ms where a 4090 allows 400 frames a second is half of what it allows."""
    counts = {"fp16 4k": {"gflop": 600.0, "gb": 6.0, "allowed": {"4090": 400.0, "H200": 2000.0}}}
    row = {
        "output": "4k",
        "runtime": "x",
        "precision": "fp16",
        "kernel_ms": [5.0],
        "host_ms": [9.0],
    }
    found = script.roofline(row, {"counts": counts, "gpus": ["NVIDIA GeForce RTX 4090"]})
    assert found == {"gb_s": 1200.0, "tflop_s": 120.0, "share": 0.5, "at_least": False}
    del row["kernel_ms"]
    found = script.roofline(row, {"counts": counts, "gpus": ["NVIDIA H200"]})
    assert found["share"] == pytest.approx(1000 / 9 / 2000)
    assert found["at_least"]
    for other in ("NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 3060 Ti", ""):
        assert script.card_of(other, ("3060", "4090", "H200")) is None
    assert script.roofline(row, {"counts": {}, "gpus": []}) is None


@pytest.mark.slow
def test_the_real_stages_on_the_cpu(tmp_path: Path, tiny_weights: Path) -> None:
    """Files, reference, parity, times and the pipeline, by the runtimes that are here."""
    pytest.importorskip("onnxscript")
    path = tmp_path / "check.json"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--model", str(tiny_weights), "--runtimes",
         "onnxruntime,pytorch", "--outputs", "32x48", "--minutes", "6", "--steps", "12",
         "--no-extra", "--json", str(path), "--folder", str(tmp_path / "kept")],
        capture_output=True, text=True, timeout=420, check=False,
    )  # fmt: skip
    record = json.loads(path.read_text())
    stages = {s["name"]: s for s in record["stages"]}
    bad = {name: s.get("reason") for name, s in stages.items() if s["state"] != "done"}
    # What counts a network reads it by TensorRT-RTX's parser.
    assert all(name.startswith("count") for name in bad), bad
    assert done.returncode == (1 if bad else 0), done.stderr
    rows = {(r["runtime"], r["precision"]): r for r in record["rows"]}
    assert set(rows) == {("onnxruntime", "fp16"), ("onnxruntime", "fp32"), ("pytorch", "fp32")}
    assert rows["pytorch", "fp32"]["parity"]["max_abs"] < 1e-4
    assert rows["onnxruntime", "fp32"]["parity"] == {"frames": 12, "max_abs": 0.0, "min_psnr": None}
    assert 0 < rows["onnxruntime", "fp16"]["parity"]["max_abs"] < 0.05
    assert all(len(r["host_ms"]) >= 10 for r in rows.values())
    assert rows["onnxruntime", "fp16"]["pipeline"]["io"] == "nv12"
    assert rows["pytorch", "fp32"]["pipeline"]["fps"] > 0


def test_the_record_for_the_catalogue_has_its_name_there(
    script: ModuleType, tmp_path: Path
) -> None:
    from bench_record import record as a_record

    from teco.benchmark.record import store
    from teco.benchmark.record.catalogue import name_of

    store.write(tmp_path / "bench.json", a_record())
    check = stand_in(script, tmp_path, ["fine"])
    check.stages = [script.Stage(kind="bench")]
    check.command = lambda *_: [sys.executable, "-c", "raise SystemExit(1)"]
    check.run()
    (stage,) = check.record["stages"]
    assert stage["state"] == "failed"
    assert stage["file"] == name_of(a_record())
    assert (tmp_path / stage["file"]).read_bytes() == (tmp_path / "bench.json").read_bytes()
