"""What pip would install for each extra: exactly one ONNX Runtime, with the providers it is for.

pip itself resolves the extras against the index, in an environment that counts as empty; nothing is
downloaded but metadata. Without an index the tests skip with pip's reason.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOR_PEOPLE = ("cpu", "nvidia", "openvino", "train", "players", "dev")
"""Extras by what people have; the others are parts that are added to one of these."""


NO_INDEX = ("NewConnectionError", "name resolution", "Network is unreachable")


def resolve(extra: str, folder: Path) -> dict[str, str] | str:
    """Package -> version of what ``pip install .[extra]`` would install, or why pip cannot tell."""
    report = folder / f"{extra}.json"
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet",
         "--disable-pip-version-check", "--report", str(report), f"{ROOT}[{extra}]"],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    if done.returncode != 0:
        return done.stderr
    items = [i["metadata"] for i in json.loads(report.read_text())["install"]]
    return {i["name"].lower().replace("_", "-"): i["version"] for i in items}


@pytest.fixture(scope="module")
def resolved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    folder = tmp_path_factory.mktemp("extras")
    extras = (*FOR_PEOPLE, "nvidia,vapoursynth", "nvidia,players")
    with ThreadPoolExecutor(2) as pool:
        answers = dict(zip(extras, pool.map(lambda e: resolve(e, folder), extras), strict=True))
    for extra, found in answers.items():
        if isinstance(found, str):
            if any(word in found for word in NO_INDEX):
                pytest.skip(f"pip cannot resolve {extra} here: {found.strip().splitlines()[-1]}")
            raise AssertionError(found)
    return {extra: found for extra, found in answers.items() if isinstance(found, dict)}


@pytest.mark.slow
@pytest.mark.parametrize("extra", FOR_PEOPLE)
def test_one_onnx_runtime(resolved: dict[str, dict[str, str]], extra: str) -> None:
    found = resolved[extra]
    wanted = "onnxruntime-gpu" if extra == "nvidia" else "onnxruntime"
    assert [n for n in ("onnxruntime", "onnxruntime-gpu") if n in found] == [wanted]


@pytest.mark.slow
def test_nvidia_brings_what_its_providers_and_engines_load(
    resolved: dict[str, dict[str, str]],
) -> None:
    found = resolved["nvidia"]
    assert "onnxruntime" not in resolved["nvidia,vapoursynth"]
    libraries = ("cublas", "cuda-runtime", "cudnn", "cufft")
    for library in libraries:
        assert any(name.startswith(f"nvidia-{library}") for name in found), library
    assert {"torch", "onnx", "tensorrt-rtx", "cuda-python"} <= found.keys()


@pytest.mark.slow
def test_a_combination_that_cannot_be_told_apart_is_known(
    resolved: dict[str, dict[str, str]],
) -> None:
    """Two extras with an ONNX Runtime each bring both; docs/install.md and `teco doctor` say so."""
    assert {"onnxruntime", "onnxruntime-gpu"} <= resolved["nvidia,players"].keys()


def test_the_base_has_no_onnx_runtime_and_no_part_brings_one() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert not any("onnxruntime" in d for d in project["dependencies"])
    plugin = "onnxruntime-ep"  # goes beside one
    own = {
        extra
        for extra, needs in extras.items()
        if any(n.startswith("onnxruntime") and not n.startswith(plugin) for n in needs)
    }
    assert own == {"cpu", "nvidia", "ort-rtx"}
    parts = ("torch", "vapoursynth", "plot", "rtx", "tensorrt", "cuda", "pycuda", "webgpu", "docs")
    for part in parts:
        assert not any("teco[" in need for need in extras[part])
