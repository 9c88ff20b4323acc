"""JavaScript of others that teco uses and does not carry: which, and how it comes from npm.

It is taken from a folder that the user names, else from the cache, else fetched once from npm's
registry; no node is needed. What is fetched is held against the hash that the registry published
when this version was chosen before anything in it is read, so it does not matter which mirror
(``npm_config_registry``, as npm itself reads it) or proxy (``HTTPS_PROXY``) it came through.

``python -m teco.core.npm_package fetch [NAME ...]`` does that ahead of time.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import http.client
import io
import json
import os
import shutil
import sys
import tarfile
import tempfile
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from teco.core.errors import MACHINE, USAGE, TecoError
from teco_calibration.cache import cache_dir

REGISTRY = "https://registry.npmjs.org"
COMMAND = "python -m teco.core.npm_package fetch"
SILENCE_SECONDS = 60
"""How long a registry may say nothing before it is given up."""


@dataclass(frozen=True)
class Package:
    """One version of a package, and what is wanted of it.

    Attributes:
        name: as npm knows it.
        version: exactly this one.
        size: of the registry's tarball, bytes.
        sha512: of the tarball, base64; ``npm view NAME@VERSION dist.integrity``.
        files: paths inside the package.
        environment: the variable by which users name a folder that has it.
    """

    name: str
    version: str
    size: int
    sha512: str
    files: tuple[str, ...]
    environment: str

    @property
    def tarball(self) -> str:
        """Its name on the registry."""
        return f"{self.name.rpartition('/')[2]}-{self.version}.tgz"

    @property
    def url(self) -> str:
        """Where the registry that npm is set to has it."""
        both = ("npm_config_registry", "NPM_CONFIG_REGISTRY")
        named = next((found for name in both if (found := os.environ.get(name))), REGISTRY)
        return f"{named.rstrip('/')}/{self.name}/-/{self.tarball}"

    @property
    def kept(self) -> Path:
        """The folder of the cache that holds it, or would."""
        return cache_dir() / "npm" / f"{self.name.replace('/', '-')}-{self.version}"

    @property
    def is_kept(self) -> bool:
        return all((self.kept / name).is_file() for name in self.files)


ONNXRUNTIME_WEB = Package(
    "onnxruntime-web",
    "1.30.0",
    33106585,
    "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
    (
        "dist/ort.webgpu.bundle.min.mjs",
        "dist/ort-wasm-simd-threaded.asyncify.wasm",
        "dist/ort.wasm.bundle.min.mjs",
        "dist/ort-wasm-simd-threaded.wasm",
    ),
    "TECO_ORT_WEB",
)
D3 = Package(
    "d3",
    "7.9.2",
    236072,
    "ZKb/mONPVKzaO5UlcWcwN8bS4ezvQaYu+bsou+XgNABdGC800kwH651ADTbbTxMPHW13UlvbQafdmJQDk1w7Mg==",
    ("dist/d3.min.js", "LICENSE"),
    "TECO_REPORT_JS",
)
PLOT = Package(
    "@observablehq/plot",
    "0.6.17",
    403066,
    "/qaXP/7mc4MUS0s4cPPFASDRjtsWp85/TbfsciqDgU1HwYixbSbbytNuInD8AcTYC3xaxACgVX06agdfQy9W+g==",
    ("dist/plot.umd.min.js", "LICENSE"),
    "TECO_REPORT_JS",
)
PACKAGES = {package.name: package for package in (ONNXRUNTIME_WEB, D3, PLOT)}


@dataclass(frozen=True)
class PackageFiles:
    """A package's files.

    Attributes:
        files: path inside the package -> where it lies.
        version: as the package beside them says; "" where nothing says it.
    """

    files: Mapping[str, Path]
    version: str


def find(
    package: Package,
    named: Path | None = None,
    *,
    option: str = "",
    say: Callable[[str], None] = lambda _: None,
) -> PackageFiles:
    """A package's files, which are fetched where they are nowhere yet.

    Args:
        package: which.
        named: a folder that the user gave: the package's tarball or the unpacked package is in it,
            or it is a project that has the package in node_modules, or it holds the files
            themselves. None looks at the package's variable, then the cache, then the registry.
        option: by which ``named`` was given, for messages.
        say: told about the download.

    Raises:
        TecoError: the named folder does not hold them (exit code 2); they cannot be fetched here
            (exit code 3); the cache cannot be written.
    """
    given = named or (Path(x) if (x := os.environ.get(package.environment)) else None)
    if given is not None:
        return _in_folder(package, given, option if named else package.environment)
    if not package.is_kept:
        say(f"{package.name} {package.version} is fetched once, {_size(package)}: {package.url}")
        _keep(package, _download(package), package.url)
    return _kept(package)


def _size(package: Package) -> str:
    return f"{package.size / 1e6:.1f} MB"


def _kept(package: Package) -> PackageFiles:
    return PackageFiles({name: package.kept / name for name in package.files}, package.version)


def _by_hand(package: Package) -> str:
    return (
        f"where there is a network, `{COMMAND} {package.name}` fetches it; or put "
        f"{REGISTRY}/{package.name}/-/{package.tarball} into a folder that {package.environment} "
        "names"
    )


# --- a folder that was named -----------------------------------------------------------------


def _in_folder(package: Package, folder: Path, what: str) -> PackageFiles:
    for root in (folder, folder / "package", folder / package.name,
                 folder / "node_modules" / package.name):  # fmt: skip
        files = {name: root / name for name in package.files}
        if all(path.is_file() for path in files.values()) and _name(root) in ("", package.name):
            return PackageFiles(files, _version(root))
    if len({PurePosixPath(name).parent for name in package.files}) == 1:
        files = {name: folder / PurePosixPath(name).name for name in package.files}
        if all(path.is_file() for path in files.values()):
            return PackageFiles(files, _version(folder.parent) if _name(folder.parent) ==
                         package.name else "")  # fmt: skip
    tarball = folder / package.tarball
    if tarball.is_file():
        if not package.is_kept:
            _keep(package, _read(tarball), str(tarball))
        return _kept(package)
    wanted = f"{package.name} {package.version}: neither {package.tarball} nor {package.files[0]}"
    state = f"does not hold {wanted}" if folder.exists() else "does not exist"
    raise TecoError(
        f"{what} names {folder}, which {state}",
        hint=f"leave it out to have it fetched, or `npm install --prefix DIR {package.name}@"
        f"{package.version}` and name DIR",
        exit_code=USAGE,
    )


def _read(tarball: Path) -> bytes:
    try:
        return tarball.read_bytes()
    except OSError as error:
        raise TecoError(f"{tarball} cannot be read: {error.strerror or error}") from error


def _manifest(root: Path) -> dict[str, object]:
    try:
        return dict(json.loads((root / "package.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _name(root: Path) -> str:
    return str(_manifest(root).get("name", ""))


def _version(root: Path) -> str:
    return str(_manifest(root).get("version", ""))


# --- the registry ----------------------------------------------------------------------------


def _download(package: Package) -> bytes:
    try:
        with urllib.request.urlopen(package.url, timeout=SILENCE_SECONDS) as answer:
            return answer.read(package.size + 1)  # one more tells what is too long
    except (OSError, ValueError, http.client.HTTPException) as error:
        why = str(getattr(error, "reason", "") or error) or type(error).__name__
        raise TecoError(
            f"{package.name} {package.version} is needed and could not be fetched from "
            f"{package.url}: {why[:200]}",
            hint=_by_hand(package),
            exit_code=MACHINE,
        ) from error


def _keep(package: Package, tarball: bytes, source: str) -> None:
    """Check a tarball, and put what is wanted of it into the cache, all of it or nothing."""
    found = base64.b64encode(hashlib.sha512(tarball).digest()).decode()
    if found != package.sha512:
        raise TecoError(
            f"{source} is not {package.name} {package.version} as it was published: its sha512 is "
            f"{found[:12]}..., expected {package.sha512[:12]}...",
            hint="it was altered or cut short: fetch it again, or ask who runs that registry",
            exit_code=MACHINE,
        )
    kept = package.kept
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{kept.name}-", dir=kept.parent) as scratch:
            part = Path(scratch) / "package"
            with tarfile.open(fileobj=io.BytesIO(tarball)) as archive:
                for name in package.files:
                    # Members are read and written under our own names: none chooses where it goes.
                    member = archive.extractfile(f"package/{name}")
                    assert member is not None  # the hash says which package it is
                    (part / name).parent.mkdir(parents=True, exist_ok=True)
                    with member, (part / name).open("wb") as target:
                        shutil.copyfileobj(member, target)
            if not package.is_kept:
                shutil.rmtree(kept, ignore_errors=True)
            try:
                part.rename(kept)
            except OSError:
                if not package.is_kept:  # else another process was first
                    raise
    except OSError as error:
        raise TecoError(
            f"{kept} could not be written: {error.strerror or error}",
            hint="set TECO_CACHE to a folder that can",
        ) from error


# --- ahead of time ---------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """``fetch [NAME ...]``: print the folders that hold the packages; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m teco.core.npm_package", description="JavaScript that teco takes from npm."
    )
    command = parser.add_subparsers(dest="command", required=True).add_parser(
        "fetch", help="fetch packages once and keep them in teco's cache"
    )
    command.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(PACKAGES)} [default: all]"
    )
    names: list[str] = parser.parse_args(arguments).names
    if unknown := [name for name in names if name not in PACKAGES]:
        parser.error(f"{unknown[0]} is not one of {', '.join(PACKAGES)}")

    def say(text: str) -> None:
        print(text, file=sys.stderr)

    try:
        for package in [PACKAGES[name] for name in names] or PACKAGES.values():
            if not package.is_kept:
                say(f"{package.name} {package.version}, {_size(package)}: {package.url}")
                _keep(package, _download(package), package.url)
            print(package.kept)
    except TecoError as error:
        say(f"error: {error.message}")
        say(f"hint: {error.hint}")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
