"""The simulator of pipelines, where the answer is known."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from types import ModuleType

import pytest
from paths import SCRIPTS


@pytest.fixture(scope="module")
def pipeline() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pipeline", SCRIPTS / "predict_pipeline.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look for the types they name
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("stages", "processors", "fps"),
    [
        ("step=20", 1, 50),
        # Each on hardware of its own: the slowest decides.
        ("decode=2@nvdec,step=8@gpu,encode=5@nvenc", 1, 125),
        # One after the other on one processor, at the same time on three.
        ("decode=2,step=8,encode=10", 1, 50),
        ("decode=2,step=8,encode=10", 3, 100),
        # Work that fills two processors cannot overlap on two.
        ("step=20x2,encode=30x2", 2, 20),
        ("step=20x2,encode=30x2", 4, 1000 / 30),
        # One bus for both directions.
        ("upload=3@bus,step=4@gpu,download=3@bus", 1, 1000 / 6),
        # A host part beside the GPU's.
        ("decode=5,step=8@gpu,encode=5", 1, 100),
    ],
)
def test_throughput(pipeline: ModuleType, stages: str, processors: int, fps: float) -> None:
    found = pipeline.simulate(pipeline.parse_stages(stages), processors)
    assert found.fps == pytest.approx(fps, rel=0.02)


def test_a_queue_that_is_full_holds_the_stage_before_it(pipeline: ModuleType) -> None:
    found = pipeline.simulate(pipeline.parse_stages("fast=1@a,slow=10@b"), 1)
    assert found.busy["slow"] == pytest.approx(1, abs=0.01)
    assert found.busy["fast"] == pytest.approx(0.1, abs=0.02)
    assert found.limit == "slow"


@pytest.mark.parametrize("text", ["step", "step=a", "=3", "step=3x", "step=3@", "step=0", ""])
def test_what_is_no_stage(pipeline: ModuleType, text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is no stage"):
        pipeline.parse_stages(text)
