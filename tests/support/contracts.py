"""Manifests that every reader of the stream contract is held to, from ``tests/fixtures/contract``.

``float32.json`` and its like are whole manifests of each kind of ports. ``refused.json`` and
``accepted.json`` change one member of such a one (``at``; without ``value`` it is left out), and
``refused.json`` says which member a reader must name as the reason.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "fixtures" / "contract"
WHOLE = tuple(
    sorted(p.stem for p in FOLDER.glob("*.json") if p.stem not in ("refused", "accepted"))
)


@dataclass(frozen=True)
class ContractCase:
    """One manifest and what a reader must say of it.

    Attributes:
        name: for pytest.
        text: the manifest.
        dtype: of the ports that the unchanged manifest has; a reader that does not drive such
            refuses it for ``dtype``.
        planes: whether they are planes; a reader that drives none refuses it for ``layout``.
        reason: the member that is wrong; "" where nothing is.
    """

    name: str
    text: str
    dtype: str
    reason: str
    planes: bool = False

    def reason_for(self, drives: tuple[str, ...]) -> str:
        """What a reader that drives these types, and perhaps "planes", must name."""
        before = ("manifest", "schema", "variant", "size", "contract", "frame", "picture")
        if self.reason in before:
            return self.reason
        if self.dtype not in drives:
            return "dtype"
        return "layout" if self.planes and "planes" not in drives else self.reason


def whole(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text())


def _changed(of: str, at: str, change: dict[str, Any]) -> str:
    data = copy.deepcopy(whole(of))
    *way, last = at.split(".")
    into: Any = data
    for key in way:
        into = into[int(key) if key.isdigit() else key]
    into.pop(last, None)
    if "value" in change:
        into[last] = change["value"]
    return json.dumps(data)


def cases() -> list[ContractCase]:
    def dtype(name: str) -> str:
        return whole(name)["contract"].get("dtype", "float32")

    def planes(name: str) -> bool:
        return "chroma" in whole(name)["contract"]

    found = [
        ContractCase(name, json.dumps(whole(name)), dtype(name), "", planes(name)) for name in WHOLE
    ]
    for table in ("accepted", "refused"):
        for row in json.loads((FOLDER / f"{table}.json").read_text()):
            of, at = row["of"], row["at"]
            name = f"{of}-{at}-{json.dumps(row['value']) if 'value' in row else 'absent'}"
            text, reason = _changed(of, at, row), row.get("reason", "")
            found += [ContractCase(name[:70], text, dtype(of), reason, planes(of))]
    damaged = ("", "{", "nul", '{"schema": 1} x')
    return found + [ContractCase(f"text-{x}", x, "float32", "manifest") for x in damaged]
