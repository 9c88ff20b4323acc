"""D3 and Observable Plot, which draw the report's charts: out of npm's packages, into the page.

They are not part of teco; :mod:`teco.core.npm_package` says how they come. A report holds
both whole, so it holds their licences too: each package's own, and those of what the two bundle,
whose texts the packages leave out (``bundled-licences.txt``).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib.resources import files

from teco.core import npm_package
from teco.core.errors import USAGE, TecoError
from teco.core.npm_package import D3, PLOT

log = logging.getLogger(__name__)

TITLES = {D3: "D3", PLOT: "Observable Plot"}
"""In the order in which a page has to load them."""


@dataclass(frozen=True)
class Libraries:
    """What a page takes in.

    Attributes:
        scripts: JavaScript, in the order to load it.
        licences: their text.
    """

    scripts: tuple[str, ...]
    licences: str


def find() -> Libraries:
    """Both libraries from the folder that ``$TECO_REPORT_JS`` names, else the cache, else npm.

    Raises:
        TecoError: see :func:`teco.core.npm_package.find`; or a named file is no script that can
            stand in a page (exit code 2).
    """
    scripts: list[str] = []
    licences: list[str] = []
    for package, title in TITLES.items():
        found = npm_package.find(package)
        script, licence = (_read(found, name) for name in package.files)
        scripts.append(script)
        licences.append(f"{title} {found.version}".strip() + f":\n\n{licence.strip()}\n")
    bundled = (
        files("teco.benchmark.report.html")
        .joinpath("bundled-licences.txt")
        .read_text(encoding="utf-8")
    )
    return Libraries(tuple(scripts), "\n".join([*licences, bundled]))


def _read(found: npm_package.PackageFiles, name: str) -> str:
    path = found.files[name]
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise TecoError(f"{path} cannot be read: {error}", exit_code=USAGE) from error
    # Either would end the element that the script stands in, or keep it from ending.
    if name.endswith(".js") and ("</script" in text.lower() or "<!--" in text):
        raise TecoError(
            f"{path} cannot stand inside a page: it holds markup",
            hint=f"name another folder by {D3.environment}, or leave that unset",
            exit_code=USAGE,
        )
    return text
