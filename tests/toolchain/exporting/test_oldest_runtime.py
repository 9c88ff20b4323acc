"""What the README says of ONNX Runtime 1.17 is true: it runs every shipped file and every kind of
export, and gives what the installed one gives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from teco_models import zoo

OLDEST = "1.17.3"

RUN = """
import sys, numpy as np, onnxruntime as ort
kinds = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
def side(d):
    value = 1
    for part in str(d).split("*"):
        value *= {"h": 16, "w": 24}.get(part) or int(part)
    return value
for path, kept in zip(sys.argv[1::2], sys.argv[2::2]):
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    feed = {}
    for port in session.get_inputs():
        shape, kind = [side(d) for d in port.shape], kinds[port.type]
        values = random.random(shape, np.float32)
        feed[port.name] = (values * 255 if kind == np.uint8 else values).astype(kind)
    np.savez(kept, *session.run(None, feed))
print(ort.__version__)
"""


@pytest.fixture(scope="module")
def oldest(tmp_path_factory) -> Path:
    """A Python that has ONNX Runtime 1.17 and nothing of teco."""
    if sys.version_info >= (3, 13):
        pytest.skip("ONNX Runtime 1.17 has no wheel for this Python")
    folder = tmp_path_factory.mktemp("oldest")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    done = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", f"onnxruntime=={OLDEST}", "numpy<2"],
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"onnxruntime {OLDEST} cannot be installed here: {done.stderr[-200:]}")
    return python


def outputs(python: Path | str, files: list[Path], folder: Path) -> list[list[np.ndarray]]:
    folder.mkdir()
    kept = [folder / f"{n}.npz" for n in range(len(files))]
    arguments = [str(x) for pair in zip(files, kept, strict=True) for x in pair]
    done = subprocess.run(
        [python, "-c", RUN, *arguments], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[-1] == (
        onnxruntime.__version__ if python == sys.executable else OLDEST
    )
    return [list(np.load(k).values()) for k in kept]


@pytest.mark.slow
def test_the_oldest_onnx_runtime_runs_what_is_shipped_and_exported(oldest, tmp_path, teco) -> None:
    files = sorted(f for e in zoo.entries() for f in e.folder.glob("*.onnx"))
    assert len(files) >= 17
    for name, *options in (
        ("live", "--int8"), ("live", "--fp16"), ("live", "--io", "uint8"),
        ("real-cpu", "--io", "uint8"), ("teco-x4-b1-c64-bp-lk", "--for", "tensorrt"),
    ):  # fmt: skip
        made = tmp_path / f"export{len(files)}"
        made.mkdir()
        done = teco("export", "--model", name, *options, "-o", made)
        assert done.code == 0, done.stderr
        files += made.glob("*.onnx")
    now = outputs(sys.executable, files, tmp_path / "now")
    then = outputs(oldest, files, tmp_path / "then")
    for file, a, b in zip(files, now, then, strict=True):
        for x, y in zip(a, b, strict=True):
            assert x.dtype == y.dtype
            rounds = x.dtype == np.float16 or "int8" in file.name  # to other values at ties
            bound = 1 if x.dtype == np.uint8 else 2e-2 if rounds else 2e-3
            assert np.abs(x.astype(np.float64) - y).max() <= bound, str(file)
