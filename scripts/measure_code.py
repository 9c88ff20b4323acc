"""Count what makes code hard to find one's way in, now and at an earlier revision.

    python scripts/measure_code.py             # the tree as it lies here
    python scripts/measure_code.py v0.1.0      # beside what it was at a revision of git

Prints lines, modules per folder, the longest functions, those of a complexity above 15 (ruff's
C901) and class names that exist twice. tests/test_architecture.py holds the tree to limits by the
same functions. Circles between parts are for import-linter to find: ``lint-imports``.
"""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys
import tarfile
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = ("toolchain", "models", "calibration")
COMPLEX = 15
"""The number of ways through a function above which it is listed."""


@dataclass(frozen=True)
class Code:
    """What was counted in one tree.

    Attributes:
        lines: root folder -> lines of its Python files.
        modules: folder of the product -> Python files directly in it, ``__init__.py`` aside.
        flat: those of the folders that have no folder with Python files below them.
        functions: (lines, place) of every function of the product, the longest first.
        complex: (complexity, place) of those above the limit, the worst first.
        classes: name -> where it is defined, for every class of the product outside functions.
    """

    lines: dict[str, int]
    modules: dict[str, int]
    flat: frozenset[str]
    functions: list[tuple[int, str]]
    complex: list[tuple[int, str]]
    classes: dict[str, list[str]]

    @property
    def product_lines(self) -> int:
        return sum(self.lines[root] for root in PRODUCT)

    @property
    def twice(self) -> dict[str, list[str]]:
        """Class names that are defined more than once, and where."""
        return {name: places for name, places in self.classes.items() if len(places) > 1}


def python_files(root: Path) -> Iterator[Path]:
    """Those below a folder, by name; none of what was installed or compiled there."""
    for path in sorted(root.rglob("*.py")):
        if not {"node_modules", "__pycache__", ".venv"} & set(path.parts):
            yield path


def complexities(root: Path) -> list[tuple[int, str]]:
    """What ruff finds above the limit, the worst first."""
    command = [
        sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--exit-zero",
        "--ignore-noqa", "--select", "C901", "--output-format", "json",
        "--config", f"lint.mccabe.max-complexity={COMPLEX}", *PRODUCT,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    found: list[tuple[int, str]] = []
    for one in json.loads(done.stdout):
        # "`name` is too complex (21 > 15)"
        name, _, rest = one["message"].partition(" is too complex (")
        place = Path(one["filename"]).relative_to(root.resolve())
        found.append((int(rest.partition(" ")[0]), f"{place}: {name.strip('`')}"))
    return sorted(found, reverse=True)


def measure(root: Path = ROOT) -> Code:
    """Count a tree that has the project's five root folders."""
    roots = (*PRODUCT, "tests", "scripts")
    lines = {
        name: sum(len(p.read_bytes().splitlines()) for p in python_files(root / name))
        for name in roots
    }
    modules: dict[str, int] = defaultdict(int)
    functions: list[tuple[int, str]] = []
    classes: dict[str, list[str]] = defaultdict(list)
    for part in PRODUCT:
        for path in python_files(root / part):
            place = path.relative_to(root)
            modules[str(place.parent)] += path.name != "__init__.py"
            tree = ast.parse(path.read_text())
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    count = (node.end_lineno or node.lineno) - node.lineno + 1
                    functions.append((count, f"{place}: {node.name}"))
            for node in tree.body:
                if isinstance(node, ast.ClassDef):
                    classes[node.name].append(str(place))
    flat = {f for f in modules if not any(other.startswith(f"{f}/") for other in modules)}
    return Code(
        lines=lines,
        modules=dict(modules),
        flat=frozenset(flat),
        functions=sorted(functions, reverse=True),
        complex=complexities(root),
        classes=dict(classes),
    )


def measure_revision(revision: str) -> Code:
    """The same of a revision of git, unpacked into a temporary folder."""
    done = subprocess.run(
        ["git", "archive", revision], cwd=ROOT, stdout=subprocess.PIPE, check=False
    )
    if done.returncode:
        sys.exit(2)  # git has said why
    with tempfile.TemporaryDirectory() as folder, tarfile.open(fileobj=BytesIO(done.stdout)) as tar:
        tar.extractall(folder, filter="data")
        return measure(Path(folder))


def summary(code: Code) -> dict[str, int]:
    """One figure per thing that is limited or compared."""
    return {
        "lines of product": code.product_lines,
        "lines of tests": code.lines["tests"],
        "modules of product": sum(code.modules.values()),
        "modules directly in toolchain/teco": code.modules.get("toolchain/teco", 0),
        "most modules in a folder": max(code.modules.values()),
        "lines of the longest function": code.functions[0][0],
        "functions longer than 60 lines": sum(count > 60 for count, _ in code.functions),
        f"functions of complexity above {COMPLEX}": len(code.complex),
        "class names that exist twice": len(code.twice),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("revision", nargs="?", help="of git, to stand beside what is here")
    parser.add_argument("--most", type=int, default=10, help="how many functions to list")
    options = parser.parse_args()
    now = measure()
    before = summary(measure_revision(options.revision)) if options.revision else {}
    print(f"{'':40}{options.revision or '':>10}{'now':>10}")
    for name, count in summary(now).items():
        print(f"{name:40}{before.get(name, ''):>10}{count:>10}")
    print("\nmodules per folder")
    for folder, count in sorted(now.modules.items()):
        print(f"{count:6}  {folder}")
    print("\nlongest functions, lines")
    for count, place in now.functions[: options.most]:
        print(f"{count:6}  {place}")
    print(f"\ncomplexity above {COMPLEX}")
    for count, place in now.complex:
        print(f"{count:6}  {place}")
    print("\nclass names that exist twice")
    for name, places in sorted(now.twice.items()):
        print(f"  {name}: {', '.join(places)}")


if __name__ == "__main__":
    main()
