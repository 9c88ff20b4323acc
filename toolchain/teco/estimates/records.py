"""Measured memory, shipped with the package, and which of it is nearest to a question.

``scripts/measure_memory.py`` makes the file.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from teco.core.errors import TecoError

FILE = Path(__file__).with_name("measured.json")


@dataclass(frozen=True)
class Grown:
    """By how much a process grew, in bytes.

    Attributes:
        before: resident with the interpreter and the library, the model not yet opened.
        opened: resident growth when the model was open.
        peak: growth of the largest resident size, over opening and the steps.
        private: growth of private memory (anonymous pages) at the end of the steps.
    """

    before: int
    opened: int
    peak: int
    private: int


@dataclass(frozen=True, kw_only=True)
class MemoryRecord:
    """One model on one runtime at one size, measured.

    Attributes:
        model: shipped name.
        variant: its variant.
        precision: that the runtime computed in, "fp32" or "bf16".
        form: exact rewrites of the file's deploy form (teco_models.deploy.step.Rewrites).
        static: whether the file was made for this size alone.
        runtime: as users type it.
        version: of the runtime's package.
        size: LR "HxW".
        threads: of the runtime.
        cpu: model name of the machine.
        grown: what was measured.
    """

    model: str
    variant: str
    precision: str
    form: dict[str, bool]
    static: bool
    runtime: str
    version: str
    size: str
    threads: int
    cpu: str
    grown: Grown

    @property
    def key(self) -> tuple[str, ...]:
        """What was measured, where a new measurement replaces an old one."""
        return (self.model, self.runtime, self.size, str(self.static))

    @property
    def hw(self) -> tuple[int, int]:
        h, w = self.size.split("x")
        return int(h), int(w)


def read(path: Path = FILE) -> tuple[MemoryRecord, ...]:
    """All records; none where there is no file.

    Raises:
        TecoError: the file is damaged.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ()
    try:
        data: list[dict[str, Any]] = json.loads(text)["records"]
        grown = [Grown(**x.pop("grown")) for x in data]
        return tuple(MemoryRecord(**x, grown=g) for x, g in zip(data, grown, strict=True))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TecoError(
            f"{path} is no file of measured memory: {error!r}",
            hint="install teco again, or measure again: `python scripts/measure_memory.py`",
        ) from error


def write(records: tuple[MemoryRecord, ...], path: Path = FILE) -> None:
    """Write all records, sorted.

    Raises:
        TecoError: the file cannot be written.
    """
    from teco.core.files import as_json, write_beside

    ordered = sorted(records, key=lambda r: (r.model, r.runtime, r.hw, r.static))
    write_beside(path, as_json({"records": [asdict(r) for r in ordered]}))


def nearest(
    records: tuple[MemoryRecord, ...], variant: str, hw: tuple[int, int], count: int = 6
) -> tuple[MemoryRecord, ...]:
    """The records that say most about a variant at an LR size: same variant first, then size.

    Args:
        records: all.
        variant: canonical name.
        hw: LR (h, w).
        count: how many to give at most.
    """
    pixels = hw[0] * hw[1]

    def distance(record: MemoryRecord) -> tuple[bool, float, str]:
        h, w = record.hw
        return record.variant != variant, abs(math.log(h * w / pixels)), record.runtime

    return tuple(sorted(records, key=distance)[:count])
