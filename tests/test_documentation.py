"""The pages of docs/ and the README: commands are commands, messages are said, phones hold them."""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest
from paths import ROOT

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]

# --- commands --------------------------------------------------------------------------------

NEEDS = {
    "a program of this machine's, and a screen": ("play", "serve"),
    "hours, and clips or photographs of somebody's own": ("train",),
    "a clip of somebody's own": (
        "upscale in.mp4", "upscale clip.mp4", "upscale - -",
        "eval --clip truth.mp4", "export --blocks 3 --int8 --calibrate walk.mp4",
        "prune teacher.safetensors",
    ),
    "weights or an engine of somebody's own": (
        "export --weights", "bench engine.plan", "bench teco-x4-b3-c64-bp-lk-dynamic-fp16-rtx.plan",
        "upscale IN OUT --model",
    ),
    "records that another command on the page has made": ("compare before.json after.json",),
    "minutes of two cores, or more": (
        "bench live --html report.html", "bench --family", "export --blocks all",
        "export real-cpu --fp16", "export --blocks 3 --fp16", "reproduce table-3 --small",
        "prune teco-x4-b3-c64-bp-lk --blocks 2 -o b2.safetensors",
    ),
    "compilers, Python of the system or files of npm": (
        "emit frei0r", "emit gstreamer", "emit c", "emit web",
    ),
    "a set that everybody fetches for himself": (
        "table --data Vid4/", "reproduce table-3 --dry-run", "reproduce table-3 --data REDS/",
    ),
    "a checkout of the repository around it": ("bench --from toolchain/",),
    "a network": ("fetch",),
    "a model that the command above it makes": (
        "verify real-cpu-fp16.onnx",
    ),
}  # fmt: skip
"""Why a command in a ```console block is not run -> how it begins after ``teco``. What stands in a
```sh block is run by tests/test_readme.py; what is in neither fails here."""


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """(language, text) of each block of code, indented ones too."""
    fenced = re.compile(r"^( *)```(\w+)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
    for _, language, text in fenced.findall(page.read_text()):
        yield language, text.replace("\\\n", " ")


def arguments(text: str) -> Iterator[list[str]]:
    """What follows ``teco`` in each command of a block that calls it, pipes and comments apart."""
    for line in text.splitlines():
        words = shlex.shlex(line.strip().removeprefix("$ "), posix=True, punctuation_chars="|&;<>")
        words.whitespace_split = True
        command: list[str] = []
        for word in [*words, ";"]:
            if word and not set(word) <= set("|&;<>"):
                command.append(word)
                continue
            # torchrun and python run the module.
            for start in (["teco"], ["-m", "teco"]):
                n = next((n for n in range(len(command)) if command[n:][: len(start)] == start), -1)
                if n == 0 or (n > 0 and len(start) == 2):
                    yield command[n + len(start) :]
                    break
            command = []


COMMANDS = [
    (page, language, words)
    for page in PAGES
    for language, text in blocks(page)
    if language in ("sh", "bash", "console")
    for words in arguments(text)
]


def named(case: tuple[Path, str, list[str]]) -> str:
    page, _, words = case
    return f"{page.relative_to(ROOT)}: {' '.join(words)[:60]}"


def test_there_are_commands() -> None:
    """What looks for them finds them: in lists, after pipes, behind torchrun."""
    assert len(COMMANDS) > 60
    text = (
        "$ a | teco upscale - - > x  # teco no\nenv X=1 python -m teco train --data d && teco info"
    )
    assert list(arguments(text)) == [["upscale", "-", "-"], ["train", "--data", "d"], ["info"]]
    assert list(arguments("echo teco upscale")) == []


@pytest.mark.parametrize("case", COMMANDS, ids=named)
def test_a_command_is_one(case) -> None:
    """click takes it: its name, its options, their values."""
    from teco.cli import cli

    words = case[2]
    assert words, "teco alone"
    above = click.Context(cli, info_name="teco")
    command = cli.get_command(above, words[0])
    assert command is not None, words[0]
    with contextlib.suppress(click.exceptions.Exit):  # --help and its like
        command.make_context(words[0], list(words[1:]), parent=above)


@pytest.mark.parametrize("case", [c for c in COMMANDS if c[1] != "sh"], ids=named)
def test_what_is_not_run_has_a_reason(case) -> None:
    said = " ".join(case[2])
    reasons = [why for why, starts in NEEDS.items() if said.startswith(starts)]
    runs = [" ".join(words) for _, language, words in COMMANDS if language == "sh"]
    assert reasons or said in runs, f"teco {said}: run it in a sh block, or say in NEEDS why not"


def test_reasons_are_of_commands_that_are_there() -> None:
    said = [" ".join(words) for _, _, words in COMMANDS]
    for starts in NEEDS.values():
        for start in starts:
            assert any(text.startswith(start) for text in said), start


# --- Python ----------------------------------------------------------------------------------


CALLS = [
    (page, node)
    for page in PAGES
    for language, text in blocks(page)
    if language == "python"
    for node in ast.walk(ast.parse(text))
    if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("teco.")
]


@pytest.mark.parametrize("case", CALLS, ids=lambda c: f"{c[0].name}: {ast.unparse(c[1].func)}")
def test_a_call_is_one(case) -> None:
    """The name is there and takes the arguments."""
    call = case[1]
    found: object = importlib.import_module("teco")
    for name in ast.unparse(call.func).split(".")[1:]:
        found = getattr(found, name)
    assert callable(found)
    inspect.signature(found).bind(*call.args, **{str(k.arg): k.value for k in call.keywords})


def test_there_are_calls() -> None:
    assert {ast.unparse(call.func) for _, call in CALLS} >= {"teco.upscale", "teco.Stream.open"}


# --- messages --------------------------------------------------------------------------------

MESSAGES = re.findall(r"^### `(.+)`$", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE)


@cache
def sentences() -> list[str]:
    """Every text in the program but docstrings, with … for what it fills in."""
    found: list[str] = []
    for root in ("toolchain/teco", "models/teco_models", "calibration/teco_calibration"):
        for path in (ROOT / root).rglob("*.py"):
            nodes = list(ast.walk(ast.parse(path.read_text())))
            alone = {node.value for node in nodes if isinstance(node, ast.Expr)}
            for node in nodes:
                if node in alone:
                    continue
                if isinstance(node, ast.JoinedStr):
                    parts = (v.value if isinstance(v, ast.Constant) else "…" for v in node.values)
                    found.append("".join(map(str, parts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    page = (ROOT / "toolchain/teco/players/web/page").glob("*.js")
    return [*found, *(re.sub(r"\$\{[^}]*\}", "…", path.read_text()) for path in page)]


def test_there_are_messages() -> None:
    assert len(MESSAGES) > 20
    assert all(len(message.replace("…", "").strip()) > 10 for message in MESSAGES)


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_is_said(message) -> None:
    assert any(message in sentence for sentence in sentences())


# --- pages -----------------------------------------------------------------------------------


def test_every_model_is_shown() -> None:
    from teco_models import zoo

    text = (DOCS / "models.md").read_text()
    shown = set(re.findall(r"\]\(pictures/([^)]+)\.webp\)", text))
    kept = {path.stem for path in (DOCS / "pictures").iterdir()}
    assert shown == kept
    assert {entry.name for entry in zoo.entries()} <= shown


@pytest.mark.slow
def test_the_pictures_are_what_the_script_makes(tmp_path) -> None:
    """Of one network, since all take minutes; nearly, since versions of x264 differ."""
    import cv2
    import numpy as np

    subprocess.run(
        [sys.executable, ROOT / "scripts" / "make_before_after.py", ROOT / "examples/city_hr.mp4",
         tmp_path / "pictures", "--model", "real-cpu-x2"],
        check=True, timeout=600,
    )  # fmt: skip
    made = sorted((tmp_path / "pictures").iterdir())
    assert [path.stem for path in made] == ["bicubic-x2", "real-cpu-x2", "truth"]
    for path in made:
        one, other = (cv2.imread(str(p)).astype(int) for p in (path, DOCS / "pictures" / path.name))
        assert np.abs(one - other).mean() < 1, path.name


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The site, as CI builds it."""
    pytest.importorskip("material")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_the_reference_has_every_command_and_option(built) -> None:
    from teco.cli import COMMANDS as NAMES
    from teco.cli import cli

    text = (built / "reference/commands/index.html").read_text()
    above = click.Context(cli, info_name="teco")
    for name in NAMES:
        assert f">teco {name}<" in text
        command = cli.get_command(above, name)
        assert command is not None
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                assert parameter.opts[-1] in text, (name, parameter.opts)


@pytest.mark.slow
def test_pages_fit_a_telephone(built) -> None:
    """At 400 pixels only tables and blocks of code are pushed aside, and those by themselves."""
    from browser import chromium, resize
    from web_page import serve

    wide: list[str] = []
    with serve(built) as server, chromium() as page:
        resize(page, 400)
        for path in sorted(built.rglob("index.html")):
            page.get(f"{server.url}{path.relative_to(built)}")
            found = page.execute_script("return document.documentElement.scrollWidth")
            if found > 400:
                wide.append(f"{path.relative_to(built)}: {found}")
    assert wide == []


# --- what pages say of installing, and how they look -----------------------------------------


def test_no_page_installs_from_an_index() -> None:
    """teco is on none yet, and somebody else's package of that name would be taken."""
    for page in PAGES:
        if page.name not in ("install.md", "troubleshooting.md"):  # which say so
            found = re.findall(r"pip install ['\"]teco\b.*", page.read_text())
            assert not found, f"{page.name}: {found[0]}"


def test_rows_belong_to_a_table() -> None:
    """A row after an empty line is shown as text."""
    for page in PAGES:
        alone = re.findall(r"(?<=\n\n)\|.*\n(?!\|)", page.read_text())
        assert not alone, f"{page.name}: {alone[0]}"
