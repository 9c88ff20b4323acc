"""The order of the layers and the size of the rooms, and that breaking either is noticed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from paths import SCRIPTS

pytest.importorskip("importlinter")

ROOT = Path(__file__).parents[1]
MOST_MODULES = 15
"""In a folder that has no rooms of its own."""
MOST_AT_THE_TOP = 8
"""Directly in toolchain/teco."""


@pytest.fixture(scope="module")
def measure_code() -> ModuleType:
    spec = importlib.util.spec_from_file_location("measure_code", SCRIPTS / "measure_code.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclass looks for the types it names
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def code(measure_code: ModuleType):
    return measure_code.measure()


def lint_imports(tree: Path) -> subprocess.CompletedProcess[str]:
    """The contracts of pyproject.toml, held against the packages of a tree."""
    roots = (tree / name for name in ("toolchain", "models", "calibration"))
    return subprocess.run(
        [sys.executable, "-c",
         "from importlinter.cli import lint_imports; "
         "raise SystemExit(lint_imports(config_filename='pyproject.toml', no_cache=True))"],
        cwd=tree, capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, roots))},
    )  # fmt: skip


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The Python files of the product and the contracts."""
    for root in ("toolchain", "models", "calibration"):
        for path in (ROOT / root).rglob("*.py"):
            place = tmp_path / path.relative_to(ROOT)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_nothing_imports_upward(copy: Path) -> None:
    done = lint_imports(copy)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "imported", "contract"),
    [
        ("toolchain/teco/core/errors.py", "teco.cli", "The parts of teco"),
        ("models/teco_models/variant.py", "teco.core.errors", "The tool stands on networks"),
        ("toolchain/teco/core/pixels.py", "teco_models.checkpoint", None),
    ],
)
def test_an_import_upward_is_found(
    copy: Path, module: str, imported: str, contract: str | None
) -> None:
    """Inside a function, where it would hide; the last one is downward and may stand."""
    with (copy / module).open("a") as file:
        file.write(f"\n\ndef _planted() -> None:\n    import {imported}\n")
    done = lint_imports(copy)
    broken = [line for line in done.stdout.splitlines() if " BROKEN" in line]
    if contract is None:
        assert (done.returncode, broken) == (0, []), done.stdout
    else:
        assert done.returncode == 1, done.stdout + done.stderr
        assert any(line.startswith(contract) for line in broken), done.stdout


def test_a_circle_between_rooms_is_found(copy: Path) -> None:
    """Where no layer says which is above: two rooms of a part that import each other."""
    rooms = sorted(p.parent for p in (copy / "toolchain/teco/benchmark").glob("*/__init__.py"))
    one, two = rooms[:2]
    for here, there in ((one, two), (two, one)):
        with (here / "__init__.py").open("a") as file:
            file.write(f"\nimport teco.benchmark.{there.name}\n")
    done = lint_imports(copy)
    assert done.returncode == 1, done.stdout + done.stderr


def test_rooms_are_small(code) -> None:
    assert code.modules["toolchain/teco"] <= MOST_AT_THE_TOP
    large = {f: n for f, n in code.modules.items() if n > MOST_MODULES and f in code.flat}
    assert not large


def test_no_class_name_exists_twice(code) -> None:
    assert not code.twice


def test_what_is_counted(measure_code: ModuleType, tmp_path: Path) -> None:
    part = tmp_path / "toolchain" / "teco" / "part"
    part.mkdir(parents=True)
    branches = "".join(f"    if x == {n}:\n        return {n}\n" for n in range(16))
    (part / "__init__.py").write_text("class Twice: ...\n")
    (part / "one.py").write_text(f"class Twice: ...\n\n\ndef long(x):\n{branches}")
    found = measure_code.measure(tmp_path)
    assert found.modules == {"toolchain/teco/part": 1}
    assert found.flat == {"toolchain/teco/part"}
    assert found.product_lines == 1 + 36
    assert found.functions == [(33, "toolchain/teco/part/one.py: long")]
    assert found.complex == [(17, "toolchain/teco/part/one.py: long")]
    assert list(found.twice) == ["Twice"]
