"""scripts/gpu_check.py, as far as it goes without a GPU."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
from paths import SCRIPTS

from teco.runtimes import find
from teco.runtimes.nvidia import device

SCRIPT = SCRIPTS / "gpu_check.py"


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


def test_without_a_gpu_it_says_what_each_runtime_lacks(script) -> None:
    if any(find(name).why_unavailable() is None for name in script.RUNTIMES):
        pytest.skip("a GPU runtime can run here")
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 3, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(script.RUNTIMES)
    assert all("needs" in line for line in lines)


def test_the_table_holds_what_was_measured(script, fake_session, monkeypatch) -> None:
    """A fake runtime with a known error: parity, times and the columns."""

    class Session(fake_session):
        last_step_ms = 0.5

        def step(self, lr, state):
            out, state = super().step(lr, state)
            return out + np.float32(0.01), state

    class Runtime:
        def open(self, model, options):
            return Session()

    monkeypatch.setattr(script, "find", lambda name: Runtime())
    monkeypatch.setattr(device, "installed", lambda: None)
    clip = [np.zeros((1, 3, 8, 8), np.float32)] * 3
    row = script.measure("fake", None, "fp32", clip, [np.zeros((1, 3, 32, 32))] * 3, 5)
    assert row.max_abs == pytest.approx(0.01, rel=1e-5)
    assert row.min_psnr == pytest.approx(40, abs=0.01)
    assert len(row.host_ms) == 5
    assert row.event_ms == (0.5,) * 5
    lines = script.table([script.HEADER, row.cells()]).splitlines()
    assert lines[1].split()[:6] == ["fake", "fp32", "1.0e-02", "40.0", "0.50", "0.50"]
    assert lines[1].endswith("-")
