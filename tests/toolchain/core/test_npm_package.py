"""Packages of npm: found, fetched, checked and kept; the registry here is a folder."""

from __future__ import annotations

import http.client
import json
from dataclasses import replace
from pathlib import Path

import javascript
import pytest

from teco.core import npm_package
from teco.core.errors import TecoError
from teco.core.npm_package import PACKAGES, Package

FILES = {"dist/a.js": b"a = 1;", "dist/b.wasm": b"\0asm"}
DATA = javascript.tarball({**FILES, "dist/unwanted.js": b"x", "../../outside": b"x"})
PACKAGE = javascript.published(
    Package("@some/thing", "1.2.3", 0, "", tuple(FILES), "TECO_SOME_THING", "some"), DATA
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty one, nothing named, and a registry that is not there."""
    monkeypatch.delenv(PACKAGE.environment, raising=False)
    monkeypatch.delenv("NPM_CONFIG_REGISTRY", raising=False)
    monkeypatch.setenv("TECO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("npm_config_registry", (tmp_path / "registry").as_uri() + "/")
    return tmp_path / "cache" / "npm"


@pytest.fixture
def registry(tmp_path) -> Path:
    """One that has the package; returns the tarball's path."""
    path = tmp_path / "registry" / "@some" / "thing" / "-" / "thing-1.2.3.tgz"
    path.parent.mkdir(parents=True)
    path.write_bytes(DATA)
    return path


def contents(found: npm_package.PackageFiles) -> dict[str, bytes]:
    return {name: path.read_bytes() for name, path in found.files.items()}


def everything_in(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def test_the_registry_is_asked_once(registry, cache, tmp_path, caplog) -> None:
    caplog.set_level("INFO", logger="teco")
    found = npm_package.find(PACKAGE)
    assert PACKAGE.url in caplog.text
    assert contents(found) == FILES
    assert found.version == "1.2.3"
    registry.unlink()
    assert npm_package.find(PACKAGE) == found
    assert len(caplog.records) == 1
    # Nothing but what is wanted was written, and nothing half done is left.
    assert everything_in(cache) == {f"@some-thing-1.2.3/{name}" for name in FILES}
    assert not (tmp_path / "outside").exists()


def test_what_is_half_there_is_replaced(registry, cache) -> None:
    (cache / "@some-thing-1.2.3" / "dist").mkdir(parents=True)
    (cache / "@some-thing-1.2.3" / "dist" / "a.js").write_text("old")
    assert contents(npm_package.find(PACKAGE)) == FILES


def test_two_at_once(registry, cache, monkeypatch) -> None:
    """Another process puts the package there while this one unpacks."""
    rename = Path.rename

    def late(part: Path, kept: Path) -> Path:
        monkeypatch.setattr(Path, "rename", rename)
        npm_package.find(PACKAGE)
        return rename(part, kept)

    monkeypatch.setattr(Path, "rename", late)
    assert contents(npm_package.find(PACKAGE)) == FILES
    assert [p.name for p in cache.iterdir()] == ["@some-thing-1.2.3"]


@pytest.mark.parametrize("data", [b"", b"not an archive", DATA[:-1], DATA + b"x"])
def test_another_tarball_is_refused_unread(registry, cache, monkeypatch, data) -> None:
    registry.write_bytes(data)
    monkeypatch.setattr("tarfile.open", lambda **_: pytest.fail("it was opened"))
    with pytest.raises(TecoError, match=r"is not @some/thing .* as it was published") as caught:
        npm_package.find(PACKAGE)
    assert caught.value.exit_code == 3
    assert PACKAGE.url in caught.value.message
    assert not cache.exists()


@pytest.mark.parametrize(
    "error",
    [
        OSError("[Errno -3] Temporary failure in name resolution"),
        TimeoutError("timed out"),
        http.client.IncompleteRead(b""),
        ValueError("unknown url type: 'x'"),
    ],
)
def test_no_network(cache, monkeypatch, error) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("urllib.request.urlopen", fail)
    with pytest.raises(TecoError, match="could not be fetched from") as caught:
        npm_package.find(PACKAGE)
    assert caught.value.exit_code == 3
    assert str(error) in caught.value.message
    assert "teco fetch some --from FILE" in caught.value.hint
    assert "TECO_SOME_THING" in caught.value.hint
    assert "thing-1.2.3.tgz" in caught.value.hint
    assert not cache.exists()


def test_a_cache_that_cannot_be_written(registry, tmp_path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(TecoError, match="could not be written") as caught:
        npm_package.find(PACKAGE)
    assert "TECO_CACHE" in caught.value.hint


@pytest.mark.parametrize("where", [".", "package", "@some/thing", "node_modules/@some/thing"])
def test_a_folder_that_has_it(tmp_path, monkeypatch, where) -> None:
    root = tmp_path / "given" / where
    for name, content in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    (root / "package.json").write_text('{"name": "@some/thing", "version": "9.9.9"}')
    monkeypatch.setenv(PACKAGE.environment, str(tmp_path / "given"))
    found = npm_package.find(PACKAGE)
    assert contents(found) == FILES
    assert found.version == "9.9.9"
    if where == ".":  # the folder of the files themselves
        inner = npm_package.find(PACKAGE, tmp_path / "given" / "dist")
        assert contents(inner) == FILES
        assert inner.version == "9.9.9"
        (root / "package.json").write_text(json.dumps({"name": "another"}))
        with pytest.raises(TecoError, match="does not hold @some/thing"):
            npm_package.find(PACKAGE)


def test_a_folder_with_the_tarball(tmp_path, registry, cache) -> None:
    assert contents(npm_package.find(PACKAGE, registry.parent)) == FILES
    assert [p.name for p in cache.iterdir()] == ["@some-thing-1.2.3"]


def test_an_altered_tarball_in_a_folder(registry) -> None:
    registry.write_bytes(DATA + b"x")
    with pytest.raises(TecoError, match="as it was published"):
        npm_package.find(PACKAGE, registry.parent)


def test_a_folder_without_it(tmp_path, monkeypatch) -> None:
    with pytest.raises(TecoError, match=r"--there names .*absent, which does not exist") as caught:
        npm_package.find(PACKAGE, tmp_path / "absent", option="--there")
    assert caught.value.exit_code == 2
    monkeypatch.setenv(PACKAGE.environment, str(tmp_path))
    with pytest.raises(TecoError, match=r"TECO_SOME_THING names .* neither thing-1\.2\.3\.tgz nor"):
        npm_package.find(PACKAGE)


def test_npms_own_registry_unless_npm_has_another(monkeypatch) -> None:
    monkeypatch.delenv("npm_config_registry")
    assert PACKAGE.url == "https://registry.npmjs.org/@some/thing/-/thing-1.2.3.tgz"
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "https://mirror.example/npm/")
    assert PACKAGE.url == "https://mirror.example/npm/@some/thing/-/thing-1.2.3.tgz"


def test_the_packages_have_a_hash_each() -> None:
    import base64

    for package in PACKAGES.values():
        assert len(base64.b64decode(package.sha512)) == 64
        assert replace(package, files=()).is_kept
