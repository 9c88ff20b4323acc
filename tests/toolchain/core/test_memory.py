"""What may still be taken, as control groups, limits and the machine have it."""

from __future__ import annotations

from pathlib import Path

import pytest

from teco.core import memory


def test_the_machine_tells_something() -> None:
    assert memory.free_bytes() > 0


def group(folder: Path, limit: str, used: int, idle: int, *, second: bool) -> None:
    names = ("memory.max", "memory.current", "inactive_file") if second else (
        "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"cache 5\n{names[2]} {idle}\n")


def test_groups_of_version_2_and_their_parents(tmp_path) -> None:
    root, own = tmp_path / "fs", tmp_path / "own"
    own.write_text("0::/a/b\n")
    group(root / "a" / "b", "max", 10, 0, second=True)
    group(root / "a", "1000", 700, 200, second=True)
    assert memory._groups(root, own) == [(1000, 500)]


def test_groups_of_version_1_also_where_they_are_mounted_as_the_root(tmp_path) -> None:
    root, own = tmp_path / "fs", tmp_path / "own"
    own.write_text("8:pids:/\n4:cpu,memory:/docker/123\n")
    group(root / "memory", "1073741824", 500, 100, second=False)
    assert memory._groups(root, own) == [(1_073_741_824, 400)]


def test_no_groups_at_all(tmp_path) -> None:
    assert memory._groups(tmp_path, tmp_path / "none") == []


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        (MemoryError(), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("BFCArena: Failed to allocate memory for requested buffer of size 9"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("shapes do not match"), False),
    ],
)
def test_refused_memory_is_told_from_other_errors(error, refused) -> None:
    assert memory.is_refused_memory(error) is refused
