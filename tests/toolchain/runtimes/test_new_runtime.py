"""A runtime is one file and one row: with the row alone, every command knows it.

The commands run in processes of their own, and the bench starts more. In each of them a
``sitecustomize`` adds the row "glow", which is ONNX Runtime's CPU session under another name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from teco.benchmark.record import store

ROW = """
from dataclasses import dataclass

import teco.runtimes
from teco.runtimes.onnxruntime import OnnxRuntime


@dataclass(frozen=True, kw_only=True)
class Glow(OnnxRuntime):
    def open(self, model, options):
        session = OnnxRuntime(name="onnxruntime").open(model, options)
        session.runtime = self.name
        return session


teco.runtimes.RUNTIMES += (Glow(name="glow", packages=("onnxruntime",)),)
"""


@pytest.fixture
def with_glow(
    run_teco, teco_environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """`teco ARGS...` where glow is a runtime."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(ROW)
    paths = [str(folder), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setitem(teco_environment, "PYTHONPATH", os.pathsep.join(filter(None, paths)))
    return run_teco


def test_doctor_lists_it(with_glow) -> None:
    done = with_glow("doctor")
    done.says()
    assert "glow" in done.stdout.decode()


def test_upscale_runs_on_it(with_glow, make_clip, tiny_onnx: Path, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", width=24, height=16, frames=3)
    arguments = ("--model", tiny_onnx, "--runtime", "glow", "--threads", 1)
    with_glow("upscale", clip, tmp_path / "out.mp4", *arguments).says("glow")
    assert (tmp_path / "out.mp4").exists()


@pytest.mark.slow
def test_bench_measures_it(with_glow, tiny_onnx: Path, tmp_path: Path) -> None:
    """Beside another runtime, with everything that the bench does in its worker processes."""
    path = tmp_path / "r.json"
    with_glow(
        "bench", tiny_onnx, "--runtime", "glow,onnxruntime", "--size", "16x24", "--threads", 1,
        "--repetitions", 3, "--budget", 1, "--json", path,
    ).says()  # fmt: skip
    row, other = store.read(path).rows
    assert (row.runtime, row.device, row.precision) == ("glow", "cpu", "fp32")
    assert row.runtime_version == other.runtime_version != ""
    for part in (row.latency, row.end_to_end, row.playback, row.memory, row.roofline):
        assert part is not None, row.notes


@pytest.mark.slow
def test_table_measures_it(with_glow, make_clip, tiny_onnx: Path, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "truth.mp4", width=112, height=96, frames=6)
    path = tmp_path / "table.json"
    with_glow(
        "table", "--data", clip, "--model", tiny_onnx, "--runtime", "glow", "--metrics", "psnr",
        "--size", "16x24", "--repetitions", 3, "--threads", 1, "--json", path,
    ).says()  # fmt: skip
    assert json.loads(path.read_text())["models"][0]["runtime"] == "glow"
