"""What tests have of npm: the real packages where they were fetched, and packages made up here."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import tarfile
from collections.abc import Mapping
from dataclasses import replace

import pytest

from teco.benchmark.report.html import libraries
from teco.benchmark.report.html.libraries import Libraries
from teco.core.npm_package import COMMAND, D3, PLOT, Package

STAND_INS = Libraries(("var d3 = {};", "var Plot = {};"), "Copyright A <B>\n")
"""For pages that no browser opens."""


def needs(*packages: Package) -> None:
    """Skip where these were not fetched; in CI, where `.ci/run` has, it is a failure.

    Tests do not fetch: what one does must not hang on a registry.
    """
    missing = [p for p in packages if not p.is_kept and p.environment not in os.environ]
    if missing:
        names = " ".join(p.name for p in missing)
        reason = f"needs {names} of npm, once: {COMMAND} {names}"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)


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
