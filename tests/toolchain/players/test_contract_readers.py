"""Python, C and JavaScript read the stream contract: one table of manifests, the same verdicts."""

from __future__ import annotations

import ctypes
import json
import re
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from contracts import ContractCase, cases
from javascript import run_module
from libteco import SOURCE, need
from paths import ROOT

from teco.core.errors import TecoError
from teco.model.manifest import Manifest

CASES = cases()
EACH = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
PAGE = ROOT / "toolchain" / "teco" / "players" / "web" / "page"


def hold(case: ContractCase, drives: tuple[str, ...], said: str) -> None:
    """``said``: the reader's refusal, "" where it had none."""
    reason = case.reason_for(drives)
    assert bool(said) == bool(reason), said
    assert not reason or re.search(rf"\b{reason}\b", said), (reason, said)
    assert "\n" not in said


@EACH
def test_python(case) -> None:
    try:
        Manifest.from_json(case.text, source="model.json")
        said = ""
    except TecoError as error:
        said = error.message
    hold(case, ("float32", "float16", "uint8", "planes"), said)


@pytest.fixture(scope="module")
def read_in_c(tmp_path_factory) -> Callable[[str], str]:
    """``contract_read`` of libteco's own sources, without the rest of it."""
    need("cc")
    library = tmp_path_factory.mktemp("contract") / "contract.so"
    files = [SOURCE / "src" / f"{name}.c" for name in ("contract", "json", "error")]
    subprocess.run(
        ["cc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-I",
         SOURCE / "include", "-o", library, *files, "-lm"], check=True,
    )  # fmt: skip
    calls = ctypes.CDLL(str(library))
    calls.teco_last_error.restype = ctypes.c_char_p

    def read(text: str) -> str:
        room = ctypes.create_string_buffer(1 << 16)  # a contract is smaller
        status = calls.contract_read(room, text.encode(), b"model.onnx")
        return calls.teco_last_error().decode() if status else ""

    return read


@EACH
def test_c(case, read_in_c) -> None:
    hold(case, ("float32", "uint8"), read_in_c(case.text))


READ = """
import { readManifest } from %s;
import { readFileSync } from "node:fs";
const said = JSON.parse(readFileSync(0, "utf8")).map((text) => {
  try {
    readManifest(text, "model.json");
    return "";
  } catch (error) {
    return error.name === "PlayerError" ? error.message : `${error.stack}`;
  }
});
console.log(JSON.stringify(said));
"""


@cache
def read_in_javascript() -> dict[str, str]:
    """What the page says of each text."""
    texts = [case.text for case in CASES]
    said = run_module(READ % json.dumps((PAGE / "contract.js").as_uri()), texts)
    return dict(zip(texts, said, strict=True))


@EACH
def test_javascript(case) -> None:
    hold(case, ("float32",), read_in_javascript()[case.text])


def test_there_are_cases_of_every_kind() -> None:
    assert {case.dtype for case in CASES if not case.reason} == {"float32", "float16", "uint8"}
    source = Path(SOURCE / "src" / "contract.c").read_text()
    for reason in set(re.findall(r'return "(\w+)";', source)) - {"form", "field"}:
        assert any(case.reason == reason for case in CASES), reason
