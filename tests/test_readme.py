"""The README's commands are run, not trusted."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
from itertools import pairwise
from pathlib import Path

import javascript
import pytest

from teco.core.npm_package import D3, PLOT

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
MODELS = (ROOT / "docs" / "models.md").read_text()
PAGES = [path.read_text() for path in sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = [
    block
    for page in (README, *PAGES)
    for block in re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
]
"""```sh blocks are run here; what needs somebody's own files stands in ```console blocks, and
test_documentation.py asks for the reason."""
QUICK = ("teco info", "teco estimate")
"""Blocks of these alone are among the fast tests."""


def commands(block: str) -> list[str]:
    """The lines of a block without comments, joined where they end in a backslash."""
    lines = block.replace("\\\n", " ").splitlines()
    return [text for line in lines if (text := line.split("  #")[0].strip())]


INSTALL, TEST, *OTHERS = [commands(block) for block in BLOCKS]


def test_the_first_two_blocks_are_the_two_commands() -> None:
    assert INSTALL == ['pip install ".[cpu]" && teco upscale examples/city.mp4 city_x4.mp4']
    assert TEST == ['pip install -e ".[dev]" && pytest']


def test_every_command_is_shown() -> None:
    from teco.cli import COMMANDS

    shown = "".join((README, *PAGES))
    for name in COMMANDS:
        assert f"teco {name}" in shown, name


def test_shipped_models_are_in_the_table() -> None:
    from teco_models import zoo

    for entry in zoo.entries():
        assert f"`{entry.name}`" in MODELS


def model_table() -> dict[str, list[str]]:
    """Name -> the other cells of its row: parameters, GFLOP, PSNR, LPIPS, tOF, three times."""
    rows = re.findall(r"^\| `([^`]+)` \|(.*)\|$", MODELS, re.MULTILINE)
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in rows}


def test_cost_and_time_fall_from_the_teacher_to_live() -> None:
    table = model_table()
    family = [f"teco-x4-b{blocks}-c64-bp-lk" for blocks in (10, 7, 5, 3, 1)] + ["live"]
    for column in (0, 1, 5, 6, 7):
        values = [
            float(table[name][column].removesuffix(" ms").replace(",", "")) for name in family
        ]
        assert all(a > b for a, b in pairwise(values)), (column, values)


def card_row(card: str, name: str) -> list[float]:
    """The numbers of the line of a card's table that begins with ``name``."""
    row = re.search(rf"^\| {name} \|(.*)\|$", card, re.MULTILINE)
    assert row, name
    return [float(x) for x in row[1].split("|")]


def test_the_quality_of_networks_for_ordinary_clips_is_the_cards() -> None:
    from teco_models import zoo

    table = model_table()
    for entry in zoo.entries():
        if not entry.name.startswith("real-"):
            continue
        card = entry.card.read_text()
        light, usual, strong = (card_row(card, f"x264 crf {q}") for q in (20, 23, 26))
        assert [float(x) for x in table[entry.name][2:6]] == [
            light[0], strong[0], usual[4], usual[6],
        ]  # fmt: skip
        twice = ", twice" if entry.name.endswith("-x2") else ""
        for name, column in ((f"bicubic{twice}", 1), (f"Lanczos{twice}", 2)):
            shown = re.search(rf"^\| {name} \| \| \| (.*)$", MODELS, re.MULTILINE)
            assert shown
            assert shown[1].split(" | ")[:2] == [f"{light[column]:.2f}", f"{strong[column]:.2f}"]


def test_the_readme_is_short_and_its_figures_are_the_models() -> None:
    assert len(README.splitlines()) <= 125
    rows = re.findall(r"^\| `([^`]+)` \|(.*)\|$", README, re.MULTILINE)
    assert rows
    table = model_table()
    for name, cells in rows:
        shown = [cell.strip() for cell in cells.split("|")]
        kept = [n for n in range(len(table[name])) if n != 5]  # tOF is left out
        assert shown == [table[name][n] for n in kept]


def test_links_of_the_readme_lead_somewhere() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            if not target.startswith("http"):
                assert (ROOT / target).exists(), f"{page.name}: {target}"


def test_the_quality_of_networks_for_papers_is_the_cards() -> None:
    from teco_models import zoo

    table = model_table()
    for entry in zoo.entries():
        if entry.name.startswith("real-"):
            continue
        row = re.search(rf"^\| {entry.name} \|(.*)\|$", entry.card.read_text(), re.MULTILINE)
        assert row, entry.name
        psnr, _, lpips, tof, _ = (float(x) for x in row[1].split("|"))
        shown = [float(x) for x in table[entry.name][2:5]]
        assert shown == [
            pytest.approx(psnr, abs=0.0051),
            *(pytest.approx(x, abs=0.00056) for x in (lpips, tof)),
        ], entry.name


def copy_of_the_repository(target: Path) -> Path:
    """What git knows, so that nothing a developer left lying about helps."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
    return target


def run(command: str, folder: Path, programs: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "VIRTUAL_ENV": str(programs.parent),
        "TECO_CACHE": str(folder / ".cache"),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    environment.pop("PYTHONPATH", None)
    return subprocess.run(
        command, shell=True, cwd=folder, env=environment, capture_output=True, text=True,
        timeout=1200, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_install_and_upscale_in_a_new_environment(tmp_path: Path) -> None:
    """The newcomer's command: a new virtual environment, no torch, a real clip."""
    import av

    folder = copy_of_the_repository(tmp_path / "teco")
    venv.create(tmp_path / "venv", with_pip=True)
    programs = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
    done = run(INSTALL[0], folder, programs)
    assert done.returncode == 0, done.stderr[-3000:]
    probe = run("python -c 'import torch'", folder, programs)
    assert probe.returncode != 0, "the base install brought torch"
    with (
        av.open(str(folder / "city_x4.mp4")) as out,
        av.open(str(ROOT / "examples/city.mp4")) as clip,
    ):
        assert (out.streams.video[0].width, out.streams.video[0].height) == (1280, 720)
        assert sum(1 for _ in out.decode(video=0)) == sum(1 for _ in clip.decode(video=0))
        assert len(out.streams.audio) == 1


def case(block: list[str]) -> object:
    quick = all(command.startswith(QUICK) for command in block)
    name = block[0].split("  ")[0][:40] if block else "empty"
    return pytest.param(block, id=name, marks=() if quick else pytest.mark.slow)


@pytest.mark.fetched
@pytest.mark.parametrize("block", [case(block) for block in OTHERS])
def test_other_blocks(block: list[str], tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    if any("--html" in command for command in block):
        javascript.needs(D3, PLOT)
        for package in (D3, PLOT):  # the newcomer's cache is another; only the network is spared
            if package.is_kept:
                kept = tmp_path / ".cache" / "npm" / package.kept.name
                shutil.copytree(package.kept, kept)
    # The newcomer has fetched the LPIPS backbone by then; here the test's own cache would hide it.
    for command in block:
        done = run(command.replace("TECO_CACHE", ""), tmp_path, Path(sys.executable).parent)
        assert done.returncode == 0, f"{command}\n{done.stderr[-3000:]}"
