"""Output under a temporary name beside the final one, renamed when whole.

A killed run leaves the old file or the new one, never half. What it leaves under the temporary
name is removed by the next run for the same output.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

from teco.core.errors import TecoError


def check_target(path: Path, *, overwrite: bool, source: Path | None) -> None:
    """Raise TecoError unless a file or folder of this name may be made."""
    folder = path.parent
    if source is not None and path.exists() and source.exists() and path.samefile(source):
        raise TecoError(
            f"the output {path} is the input itself",
            hint="give the output another name",
            exit_code=2,
        )
    if not folder.is_dir():
        raise TecoError(
            f"the output folder {folder} does not exist", hint=f"mkdir -p {folder}", exit_code=2
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise TecoError(
            f"the output folder {folder} is not writable",
            hint=f"check the permissions: ls -ld {folder}",
        )
    if path.exists() and not overwrite:
        raise TecoError(f"{path} exists already", hint="add --force to replace it", exit_code=2)


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
        raise TecoError(f"{path} is being written already by this process")
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


def write_error(code: int | None, text: str, name: str, folder: Path | None) -> TecoError:
    """The TecoError for a failed write of ``name``."""
    where = folder if folder is not None else name
    if code in (errno.ENOSPC, errno.EDQUOT):
        return TecoError(
            f"no space left on {where} while writing {name}",
            hint="free some space or write to another disk; nothing was left behind",
        )
    if code == errno.EPIPE:
        return TecoError(f"whoever was reading {name} stopped reading before the end")
    return TecoError(f"{name} could not be written: {text}", hint=f"check {where}")


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def as_json(record: Any) -> bytes:
    """A record as indented JSON; what is no finite number becomes null, which JSON can hold."""

    def finite(value: Any) -> Any:
        if isinstance(value, float):
            return value if math.isfinite(value) else None
        if isinstance(value, dict):
            return {k: finite(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [finite(v) for v in value]
        return value

    return (json.dumps(finite(record), indent=2, allow_nan=False) + "\n").encode()


class WriteError(TecoError, OSError):
    """A file could not be written; an OSError as well, for those who can do without the file."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(f"{path} could not be written: {error.strerror or error}")
        self.errno, self.strerror, self.filename = error.errno, error.strerror, str(path)

    def __str__(self) -> str:
        return self.message  # OSError's would be made of the three fields


def write_beside(path: Path, data: bytes) -> None:
    """Write a small file under a temporary name and rename it, so that it is never half there.

    Raises:
        WriteError: it cannot be written; the error names ``path``, not the temporary name.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise WriteError(path, error) from error
    finally:
        with suppress(OSError):  # where the folder is none, the error above has said so
            part.unlink(missing_ok=True)
