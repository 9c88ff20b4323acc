"""Files and folders under temporary names: whole or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from teco.core.errors import USAGE, TecoError
from teco.core.files import (
    Output,
    WriteError,
    check_target,
    content_stamp,
    write_beside,
    writing,
)


def _full(_descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_cannot_be_written_is_called_by_its_own_name(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "report.json"
    path.write_text("before")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", _full)
        with pytest.raises(WriteError, match="no space left") as error:
            write_beside(path, b"after")
    assert error.value.message.startswith(f"{path} ")
    assert error.value.hint
    assert isinstance(error.value, TecoError)
    # Callers that can do without the file catch these.
    assert isinstance(error.value, OSError)
    assert error.value.errno == errno.ENOSPC
    assert [(f.name, f.read_text()) for f in tmp_path.iterdir()] == [("report.json", "before")]
    with pytest.raises(WriteError, match=r"report\.json/x\.json could not be written: Not a dir"):
        write_beside(path / "x.json", b"")


def test_a_block_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").touch()
    for name, folder in (("file", False), ("folder", True)):
        with pytest.raises(KeyboardInterrupt), writing(tmp_path / name, folder=folder):
            raise KeyboardInterrupt
        with pytest.raises(WriteError, match=name), writing(tmp_path / name, folder=folder):
            raise OSError(errno.EIO, "it broke")
    assert [p.name for p in tmp_path.rglob("*")] == ["folder", "old"]


def test_folders_replace_folders(tmp_path: Path) -> None:
    for content in ("first", "second"):
        with writing(tmp_path / "out", folder=True) as part:
            (part / content).touch()
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["out", "second"]


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    with writing(tmp_path / "x.txt") as first, writing(tmp_path / "x.txt") as second:
        first.write_text("first")
        second.write_text("second")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("x.txt", "first")]


def test_parts_of_the_dead_are_removed_and_those_of_the_living_are_not(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    # In another container the same process number may be that of somebody else, or one's own.
    for process in (os.getpid(), 1, 2**22 + 1):
        (tmp_path / f".out.mp4.teco-{process}.part-0a0b0c0d.mp4").touch()
    # What earlier versions called them.
    for name in (".out.mp4.teco-77-0a0b0c0d.part.mp4", ".out.77.part.mp4", ".out.mp4.77.part"):
        (tmp_path / name).touch()
    other = tmp_path / f".in.mp4.teco-{2**22 + 1}.part-0a0b0c0d.mp4"
    other.touch()
    target = tmp_path / "precious"
    target.touch()
    link = tmp_path / ".out.mp4.teco-78.part-0a0b0c0d.mp4"
    link.symlink_to(target)
    with Output(path) as living:
        write_beside(path, b"")
        assert set(tmp_path.iterdir()) == {path, living.part, other, target, link}


@pytest.mark.parametrize("failing", [1, 2])
def test_a_file_and_its_manifest_are_both_new_or_both_old(
    tmp_path: Path, monkeypatch, failing: int
) -> None:
    path, manifest = tmp_path / "m.onnx", tmp_path / "m.json"

    def write(text: bytes) -> None:
        with Output(path) as output:
            output.part.write_bytes(text)
            output.commit({manifest: text})

    write(b"old")
    calls: list[int] = []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == failing:
            _full(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(WriteError):
            write(b"new")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {
        "m.onnx": b"old", "m.json": b"old"
    }  # fmt: skip
    # A manifest that cannot be replaced: no new file gets the name that an old one describes.
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda *_: _full(0))
        with pytest.raises(WriteError):
            write(b"new")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"m.onnx": b"old"}
    write(b"new")
    assert {p.read_bytes() for p in tmp_path.iterdir()} == {b"new"}


def test_places_that_nothing_is_written_to(tmp_path: Path) -> None:
    taken, free = tmp_path / "taken.onnx", tmp_path / "free.json"
    taken.touch()
    check_target(free, overwrite=False, source=taken)
    check_target(taken, free, overwrite=True)
    for paths, facts, words in (
        ((free, taken), {}, "exists already"),
        ((taken,), {"overwrite": True, "source": taken}, "is the input itself"),
        ((taken / "x",), {}, "is a file, expected a folder"),
        ((tmp_path / "none" / "x",), {}, "does not exist"),
    ):
        with pytest.raises(TecoError, match=words) as error:
            check_target(*paths, **{"overwrite": False, **facts})
        assert error.value.exit_code == USAGE
        assert error.value.hint


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("overwrite", [True, False])
def test_a_link_is_not_replaced_unseen(tmp_path: Path, there: bool, overwrite: bool) -> None:
    target, link = tmp_path / "precious", tmp_path / "out.mp4"
    if there:
        target.touch()
    link.symlink_to(target)
    with pytest.raises(TecoError, match=r"out\.mp4 is a link to") as caught:
        check_target(link, overwrite=overwrite)
    assert caught.value.exit_code == 2


def test_a_stamp_tells_files_apart_by_what_is_in_them(tmp_path: Path) -> None:
    path = tmp_path / "frame.bmp"
    data = bytearray(1_000_000)
    path.write_bytes(data)
    first = content_stamp(path)
    os.utime(path, (1, 1))
    assert content_stamp(path) == first
    data[300_000:700_000] = b"\1" * 400_000  # dark at both ends, as a letterboxed frame is
    path.write_bytes(data)
    assert content_stamp(path) != first
    for size in (0, 1, 5000):
        path.write_bytes(bytes(size))
        assert content_stamp(path) != first


FORKING = """
import os, sys
from pathlib import Path
from teco.core.files import lock_file, unlock

folder = Path(sys.argv[1])
descriptor = lock_file(folder)
try:
    lock_file(folder)
    sys.exit("locked twice")
except BlockingIOError:
    pass
born, over = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    os.write(born[1], b"x")
    os.read(over[0], 1)
    os._exit(0)
os.read(born[0], 1)
unlock(descriptor)
try:
    unlock(lock_file(folder))  # the child lives
finally:
    os.write(over[1], b"x")
    os.waitpid(child, 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_does_not_hold_the_lock(tmp_path: Path) -> None:
    """A data worker lives on for seconds after its trainer was killed."""
    done = subprocess.run([sys.executable, "-c", FORKING, str(tmp_path)], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
