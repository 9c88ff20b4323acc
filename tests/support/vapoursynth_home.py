"""A Python that VapourSynth runs on, with teco's base dependencies: PyPI's wheel needs 3.12.

Made once and kept in teco's cache folder. VapourSynth's own configuration goes beside it, not into
the user's.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from paths import ROOT

from teco_calibration.cache import cache_dir

PACKAGES = (
    "vapoursynth==81", "vapoursynth-bestsource==22", "click", "rich", "psutil", "nvidia-ml-py",
    "pytest",
)  # fmt: skip
SAME = ("numpy", "onnxruntime", "av", "opencv-python-headless")
"""Of the same version as here, so that pictures are the same bit for bit."""


@dataclass(frozen=True)
class Home:
    """A virtual environment with VapourSynth.

    Attributes:
        folder: of the environment.
        environment: of its processes.
    """

    folder: Path
    environment: dict[str, str]

    @property
    def python(self) -> str:
        return str(self.folder / "bin" / "python")

    @property
    def vspipe(self) -> str:
        return str(self.folder / "bin" / "vspipe")

    def run(self, *command: object, **more: str) -> subprocess.CompletedProcess[bytes]:
        """A command in it, whatever its exit code."""
        return subprocess.run(
            [*map(str, command)], capture_output=True, timeout=300, check=False,
            stdin=subprocess.DEVNULL, env=self.environment | more,
        )  # fmt: skip


def interpreter() -> str | None:
    """A Python from 3.12 on with venv and pip, None where there is none."""
    if sys.version_info >= (3, 12):
        return sys.executable
    names = [f"python3.{minor}" for minor in (12, 13, 14)]
    places = [found for name in names if (found := shutil.which(name))]
    # A pyenv shim may be on the PATH and stand for nothing.
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    places += [str(p) for name in names for p in sorted(versions.glob(f"3.*/bin/{name}"))]
    for place in places:
        asked = [place, "-c", "import sys, venv, ensurepip; assert sys.version_info >= (3, 12)"]
        if subprocess.run(asked, capture_output=True, check=False).returncode == 0:
            return place
    return None


@functools.cache
def home() -> Home | str:
    """The environment, made on first use; or one sentence that says why there is none.

    Raises:
        AssertionError: it could not be made although CI is set and a Python is there.
    """
    python = interpreter()
    if python is None:
        return "VapourSynth's wheel needs Python 3.12 or newer, and none is found here"
    packages = [*PACKAGES, *(f"{name}=={importlib.metadata.version(name)}" for name in SAME)]
    tag = importlib.metadata.version("onnxruntime")
    folder = cache_dir() / "tests" / f"vapoursynth-{Path(python).resolve().name}-{tag}"
    ready = folder / "ready"
    environment = {
        **os.environ,
        "XDG_CONFIG_HOME": str(folder / "config"),
        "PYTHONPATH": os.pathsep.join(
            str(ROOT / name) for name in ("toolchain", "models", "calibration")
        ),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("VIRTUAL_ENV", None)
    if not ready.exists() or ready.read_text() != "\n".join(packages):
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "config").mkdir(parents=True)
        quiet = {**environment, "PYTHONPATH": "", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        for command in (
            [python, "-m", "venv", folder],
            [folder / "bin" / "python", "-m", "pip", "install", "-q", *packages],
            [folder / "bin" / "vapoursynth", "config"],
        ):
            done = subprocess.run(
                [*map(str, command)], capture_output=True, text=True, check=False, env=quiet
            )
            if done.returncode != 0:
                reason = f"VapourSynth could not be installed: {done.stderr.strip()[-300:]}"
                assert "CI" not in os.environ, reason
                return reason
        ready.write_text("\n".join(packages))
    return Home(folder, environment)
