"""What is said of packages: where this teco came from, another one is to come from as well."""

from __future__ import annotations

import importlib.metadata
import json

import pytest

from teco.core.machine import install_elsewhere


class Installed:
    """A distribution as pip leaves it."""

    version = "1.2.3"

    def __init__(self, origin: dict | None) -> None:
        self.origin = origin

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return None if self.origin is None else json.dumps(self.origin)


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (None, "pip install 'teco[cpu]==1.2.3'"),
        (
            {"url": "https://host/teco.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            "pip install 'teco[cpu] @ git+https://host/teco.git@abc'",
        ),
        ({"url": "file:///home/me/teco", "dir_info": {"editable": True}}, "pip install 'CHECKOUT"),
        (
            {"url": "file:///home/me/teco", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            "pip install 'CHECKOUT",
        ),
    ],
)
def test_it_comes_from_where_this_one_came_from(
    monkeypatch: pytest.MonkeyPatch, origin: dict | None, command: str
) -> None:
    monkeypatch.setattr(importlib.metadata, "distribution", lambda _: Installed(origin))
    assert install_elsewhere("cpu").startswith(command)
    assert "/home/me" not in install_elsewhere("cpu")


def test_a_copy_that_is_not_installed_has_no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    assert "CHECKOUT" in install_elsewhere("cpu")
