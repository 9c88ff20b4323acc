"""Output under a temporary name beside the final one, renamed when whole.

A killed run leaves the old file or the new one, never half. What it leaves under the temporary
name is removed by the next run for the same output.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Generator
from pathlib import Path

from teco_calibration.errors import ClipError


def check_target(path: Path, *, overwrite: bool, source: Path | None) -> None:
    """Raise ClipError unless a file or folder of this name may be made."""
    folder = path.parent
    if source is not None and path.exists() and source.exists() and path.samefile(source):
        raise ClipError(
            f"the output {path} is the input itself",
            hint="give the output another name",
            exit_code=2,
        )
    if not folder.is_dir():
        raise ClipError(
            f"the output folder {folder} does not exist", hint=f"mkdir -p {folder}", exit_code=2
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ClipError(
            f"the output folder {folder} is not writable",
            hint=f"check the permissions: ls -ld {folder}",
        )
    if path.exists() and not overwrite:
        raise ClipError(f"{path} exists already", hint="add --force to replace it", exit_code=2)


def part_name(path: Path) -> Path:
    """The temporary name of this process for this output; removes those of dead processes."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.teco-(\d+)\.part{re.escape(path.suffix)}")
    with contextlib.suppress(OSError):
        for entry in path.parent.iterdir():
            found = pattern.fullmatch(entry.name)
            if found and not _alive(int(found[1])):
                remove(entry)
    part = path.with_name(f".{path.name}.teco-{os.getpid()}.part{path.suffix}")
    if part.exists():
        raise ClipError(f"{path} is being written already by this process")
    return part


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def remove(path: Path) -> None:
    """Delete a file or a folder, or neither if it is not there."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def settle(part: Path, path: Path) -> None:
    """Give a whole file its final name, safe against a power cut."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    # Not every file system lets a folder be synced; the rename itself is done either way.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def writing(name: str, folder: Path | None = None) -> Generator[None]:
    """Turn what the system says about a failed write into a sentence."""
    try:
        yield
    except OSError as error:
        raise write_error(error.errno, str(error.strerror), name, folder) from error


def write_error(code: int | None, text: str, name: str, folder: Path | None) -> ClipError:
    """The ClipError for a failed write of ``name``."""
    where = folder if folder is not None else name
    if code in (errno.ENOSPC, errno.EDQUOT):
        return ClipError(
            f"no space left on {where} while writing {name}",
            hint="free some space or write to another disk; nothing was left behind",
        )
    if code == errno.EPIPE:
        return ClipError(f"whoever was reading {name} stopped reading before the end")
    return ClipError(f"{name} could not be written: {text}", hint=f"check {where}")
