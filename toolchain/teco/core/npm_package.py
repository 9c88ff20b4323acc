"""JavaScript of others that teco uses and does not carry: which, and how it comes from npm.

It is taken from a folder that the user names, else from the cache, else fetched once from npm's
registry; no node is needed. What is fetched is held against the hash that the registry published
when this version was chosen before anything in it is read, so it does not matter which mirror
(``npm_config_registry``, as npm itself reads it) or proxy (``HTTPS_PROXY``) it came through.

``teco fetch`` does that ahead of time.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import json
import logging
import os
import shutil
import tarfile
import tempfile
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from teco.core.errors import MACHINE, USAGE, TecoError
from teco_calibration.cache import cache_dir

_log = logging.getLogger(__name__)

REGISTRY = "https://registry.npmjs.org"
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
        part: what ``teco fetch`` calls the part of teco that it is for.
    """

    name: str
    version: str
    size: int
    sha512: str
    files: tuple[str, ...]
    environment: str
    part: str

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
    "web",
)
D3 = Package(
    "d3",
    "7.9.2",
    236072,
    "ZKb/mONPVKzaO5UlcWcwN8bS4ezvQaYu+bsou+XgNABdGC800kwH651ADTbbTxMPHW13UlvbQafdmJQDk1w7Mg==",
    ("dist/d3.min.js", "LICENSE"),
    "TECO_REPORT_JS",
    "report",
)
PLOT = Package(
    "@observablehq/plot",
    "0.6.17",
    403066,
    "/qaXP/7mc4MUS0s4cPPFASDRjtsWp85/TbfsciqDgU1HwYixbSbbytNuInD8AcTYC3xaxACgVX06agdfQy9W+g==",
    ("dist/plot.umd.min.js", "LICENSE"),
    "TECO_REPORT_JS",
    "report",
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


def find(package: Package, named: Path | None = None, *, option: str = "") -> PackageFiles:
    """A package's files, which are fetched where they are nowhere yet.

    Args:
        package: which.
        named: a folder that the user gave: the package's tarball or the unpacked package is in it,
            or it is a project that has the package in node_modules, or it holds the files
            themselves. None looks at the package's variable, then the cache, then the registry.
        option: by which ``named`` was given, for messages.

    Raises:
        TecoError: the named folder does not hold them (exit code 2); they cannot be fetched here
            (exit code 3); the cache cannot be written.
    """
    given = named or (Path(x) if (x := os.environ.get(package.environment)) else None)
    if given is not None:
        return _in_folder(package, given, option if named else package.environment)
    fetch(package)
    return _kept(package)


def fetch(package: Package, tarball: Path | None = None) -> Path:
    """The cache's folder of a package, which is put there unless it is there already.

    Args:
        package: which.
        tarball: the registry's, where it was downloaded already; None downloads it.

    Raises:
        TecoError: it cannot be had here or is not what was published (exit code 3); the file cannot
            be read, or the cache not be written.
    """
    if package.is_kept:
        return package.kept
    if tarball is None:
        size = f"{package.size / 1e6:.1f} MB"
        _log.info("%s %s is fetched once, %s: %s", package.name, package.version, size, package.url)
        data, source = _download(package), package.url
    else:
        source = str(tarball)
        try:
            data = tarball.read_bytes()
        except OSError as error:
            raise TecoError(f"{tarball} cannot be read: {error.strerror or error}") from error
    _check(package, data, source)
    _unpack(package, data)
    return package.kept


def _kept(package: Package) -> PackageFiles:
    return PackageFiles({name: package.kept / name for name in package.files}, package.version)


# --- a folder that was named -----------------------------------------------------------------


def _in_folder(package: Package, folder: Path, option: str) -> PackageFiles:
    roots = (
        folder, folder / "package", folder / package.name, folder / "node_modules" / package.name,
    )  # fmt: skip
    layouts = [(root, {name: root / name for name in package.files}) for root in roots]
    if len({PurePosixPath(name).parent for name in package.files}) == 1:
        # The files may lie bare in the folder that was named, whatever is around it.
        bare = {name: folder / PurePosixPath(name).name for name in package.files}
        layouts.append((folder.parent, bare))
    for root, files in layouts:
        name, version = _name_and_version(root)
        if all(path.is_file() for path in files.values()):
            if name == package.name:
                return PackageFiles(files, version)
            if not name or root == folder.parent:
                return PackageFiles(files, "")
    tarball = folder / package.tarball
    if tarball.is_file():
        fetch(package, tarball)
        return _kept(package)
    wanted = f"{package.name} {package.version}: neither {package.tarball} nor {package.files[0]}"
    state = f"does not hold {wanted}" if folder.exists() else "does not exist"
    raise TecoError(
        f"{option} names {folder}, which {state}",
        hint=f"leave it out to have it fetched, or `npm install --prefix DIR {package.name}@"
        f"{package.version}` and name DIR",
        exit_code=USAGE,
    )


def _name_and_version(root: Path) -> tuple[str, str]:
    """What a package's own manifest says of it; "" where it says nothing."""
    try:
        manifest = dict(json.loads((root / "package.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return "", ""
    return str(manifest.get("name", "")), str(manifest.get("version", ""))


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
            hint=f"download {REGISTRY}/{package.name}/-/{package.tarball} where a network is, "
            f"and `teco fetch {package.part} --from FILE`; or name a folder that has the package "
            f"by {package.environment}",
            exit_code=MACHINE,
        ) from error


def _check(package: Package, tarball: bytes, source: str) -> None:
    found = base64.b64encode(hashlib.sha512(tarball).digest()).decode()
    if found != package.sha512:
        raise TecoError(
            f"{source} is not {package.name} {package.version} as it was published: its sha512 is "
            f"{found[:12]}..., expected {package.sha512[:12]}...",
            hint="it was altered or cut short: fetch it again, or ask who runs that registry",
            exit_code=MACHINE,
        )


def _unpack(package: Package, tarball: bytes) -> None:
    """Put what is wanted of a tarball into the cache, all of it or nothing."""
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
