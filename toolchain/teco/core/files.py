"""Files and folders that are there whole or not at all.

Whatever takes time to write, or must not be half there, lies under a temporary name beside its own
until it is whole, and then gets its name in one step:

    with writing(path) as part:       # a file; writing(path, folder=True) for a folder
        torch.save(state, part)

    write_beside(path, data)          # bytes that are at hand

    with Output(path) as output:      # a file whose fate is decided later
        ...
        output.commit({manifest: text})

A killed run leaves the old file or the new one, never half of one. What it leaves under the
temporary name is removed by the next run that writes the same file: a temporary file is locked for
as long as its process lives, which holds across containers, where process numbers repeat.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, Self

from teco.core.errors import USAGE, TecoError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


class WriteError(TecoError, OSError):
    """A file could not be written; an OSError as well, for those who can do without the file.

    Args:
        name: of the file, as its user knows it.
        error: what the system said.
    """

    def __init__(self, name: str | Path, error: OSError) -> None:
        # "-" is standard output, which lies in no folder.
        where = name if str(name) == "-" else Path(name).parent
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message = f"{name} could not be written: no space left on {where}"
            hint = "free some space or write to another disk; nothing was left behind"
        elif error.errno == errno.EPIPE:
            message, hint = f"whoever was reading {name} stopped reading before the end", ""
        else:
            message = f"{name} could not be written: {error.strerror or error}"
            hint = f"check {where}"
        super().__init__(message, hint=hint)
        self.strerror, self.filename = error.strerror, str(name)
        if error.errno != errno.EPIPE:  # which click would take for a reason to end without a word
            self.errno = error.errno

    def __str__(self) -> str:
        return self.message  # OSError's would be made of the three fields


@contextlib.contextmanager
def write_errors(name: str | Path) -> Generator[None]:
    """Turn what the system says about a failed write of ``name`` into a :class:`WriteError`."""
    try:
        yield
    except TecoError:
        raise
    except OSError as error:
        raise WriteError(name, error) from error


@contextlib.contextmanager
def made_folder(path: Path) -> Generator[None]:
    """A folder for results, made where there is nothing of its name; gone again where an error left
    it empty.

    Raises:
        TecoError: it cannot be made.
    """
    is_new = not path.exists()
    if is_new:
        try:
            path.mkdir(parents=True)
        except OSError as error:
            raise TecoError(
                f"the folder {path} cannot be made: {error.strerror or error}",
                hint="give another with -o",
            ) from error
    try:
        yield
    except BaseException:
        if is_new:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise


def check_target(*paths: Path, overwrite: bool, source: Path | None = None) -> None:
    """Refuse, before any work, a place that files cannot or should not be written to.

    Args:
        paths: files of one folder that will be written together, or a folder to be made.
        overwrite: they may replace others.
        source: what they are made from, which they must not replace.

    Raises:
        TecoError: there is no such folder, a file exists, is a link or is the source (exit code 2),
            or the folder is not writable.
    """
    folder = paths[0].parent
    if source is not None and source.exists():
        for path in paths:
            if path.exists() and path.samefile(source):
                raise TecoError(
                    f"the output {path} is the input itself",
                    hint="give the output another name",
                    exit_code=USAGE,
                )
    if folder.exists() and not folder.is_dir():
        raise TecoError(
            f"the output folder {folder} is a file, expected a folder",
            hint="give another -o",
            exit_code=USAGE,
        )
    if not folder.is_dir():
        raise TecoError(
            f"the output folder {folder} does not exist", hint=f"mkdir -p {folder}", exit_code=USAGE
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise TecoError(
            f"the output folder {folder} is not writable",
            hint=f"check the permissions: ls -ld {folder}",
        )
    for path in paths:
        if path.is_symlink():
            raise TecoError(
                f"{path} is a link to {os.readlink(path)}, and would be replaced by a file",
                hint="give the name that it points to, or remove the link",
                exit_code=USAGE,
            )
    if not overwrite and (taken := [path for path in paths if path.exists()]):
        raise TecoError(
            f"{taken[0]} exists already", hint="add --force to replace it", exit_code=USAGE
        )


def sync_folder(folder: Path) -> int:
    """Write a folder's files through to the disk; their bytes.

    Raises:
        OSError: one cannot be read or written.
    """
    size = 0
    for path in folder.iterdir():
        _sync(path)
        size += path.stat().st_size
    with contextlib.suppress(OSError):  # not every file system lets a folder be synced
        _sync(folder)
    return size


def link_or_copy(source: Path, target: Path) -> None:
    """A file under a second name, without its bytes where the file system has hard links.

    Raises:
        OSError: it cannot be written.
    """
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


class Output:
    """A file or folder that is being written, under a temporary name of its own.

    Leaving it as a context manager removes what was not committed.

    Args:
        path: its name once it is whole; what has that name now stays until then.
        folder: it is a folder.

    Attributes:
        path: as given.
        part: where to write until then: an empty file or folder with the same suffix.

    Raises:
        WriteError: it cannot be made.
    """

    def __init__(self, path: Path, *, folder: bool = False) -> None:
        self.path = path
        _remove_parts_of_the_dead(path)
        self._done = False
        with write_errors(path):
            self.part, self._lock = _make_part(path, folder=folder)

    def commit(self, described_by: Mapping[Path, bytes] | None = None) -> None:
        """Give it its name, safe against a power cut; of a folder, the name and not every file.

        Args:
            described_by: small files, such as a manifest, that say what it is. They are written in
                full before anything gets its name. Older ones go first, so that at no moment does
                one describe another file.

        Raises:
            WriteError: it cannot be written; what had the names before still has them.
        """
        with contextlib.ExitStack() as stack, write_errors(self.path):
            if not self.part.is_dir():
                _sync(self.part)
            beside = [stack.enter_context(Output(path)) for path in described_by or ()]
            for output, data in zip(beside, (described_by or {}).values(), strict=True):
                output.part.write_bytes(data)
                _sync(output.part)
            for output in beside:
                output.path.unlink(missing_ok=True)
            for output in (self, *beside):
                output._rename()

    def _rename(self) -> None:
        if self.part.is_dir() and self.path.exists():
            old = self.part.with_name(f"{self.part.name}.old")
            self.path.rename(old)
            try:
                self.part.rename(self.path)
            except BaseException:
                old.rename(self.path)
                raise
            remove(old)
        else:
            self.part.replace(self.path)
        self._done = True
        unlock(self._lock)
        # Not every file system lets a folder be synced; the rename itself is done either way.
        with contextlib.suppress(OSError):
            _sync(self.path.parent)

    def abort(self) -> None:
        """Remove what was written, unless it was committed."""
        if not self._done:
            self._done = True
            remove(self.part)
            unlock(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()


@contextlib.contextmanager
def writing(path: Path, *, folder: bool = False) -> Generator[Path]:
    """Where to write a file or folder, which gets its name at the end of a block that succeeds.

    Args:
        path: its name; what has it now is replaced.
        folder: it is a folder.

    Yields:
        The temporary name, that of an empty file or folder.

    Raises:
        WriteError: it cannot be written; so is any OSError of the block.
    """
    with Output(path, folder=folder) as output:
        with write_errors(path):
            yield output.part
        output.commit()


def write_beside(path: Path, data: bytes) -> None:
    """Write a file that is never half there; replaces an older one.

    Raises:
        WriteError: it cannot be written; the error names ``path``, not the temporary name.
    """
    with writing(path) as part:
        part.write_bytes(data)


def remove(path: Path) -> None:
    """Delete a file or a folder, or neither if it is not there."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


NAME_MAX = 255
"""Bytes of a file name that common file systems take."""


def short_name(path: Path) -> str:
    """A file's name, or what stands for it where the temporary name would be too long."""
    around = len(f"..teco-{os.getpid()}.part-12345678.old{path.suffix}".encode())
    if len(path.name.encode()) + around <= NAME_MAX:
        return path.name
    return hashlib.sha256(path.name.encode()).hexdigest()[:16]


def _make_part(path: Path, *, folder: bool) -> tuple[Path, int | None]:
    """An empty file or folder under a new temporary name, and the descriptor that locks it."""
    while True:
        # The token tells apart what one process writes twice, and processes of other machines.
        token = f"{os.getpid()}.part-{secrets.token_hex(4)}"
        part = path.with_name(f".{short_name(path)}.teco-{token}{path.suffix}")
        # Neither follows a link that somebody put there under that name.
        part.mkdir() if folder else part.touch(exist_ok=False)
        lock = lock_file(part)
        if part.exists():
            return part, lock
        unlock(lock)  # swept in the moment before it was locked


def _remove_parts_of_the_dead(path: Path) -> None:
    """Remove what processes that were killed left of this output, earlier versions' included."""
    name, stem, suffix = (re.escape(x) for x in (short_name(path), path.stem, path.suffix))
    pattern = re.compile(
        rf"\.{name}\.teco-(\d+)(?:\.part-|-)\w+(?:\.part|\.old)?{suffix}"
        rf"|\.(?:{name}\.(\d+)\.part|{stem}\.(\d+)\.part{suffix})"
    )
    with contextlib.suppress(OSError):
        for entry in path.parent.iterdir():
            found = pattern.fullmatch(entry.name)
            if (
                found
                and not entry.is_symlink()
                and not _is_alive(entry, int(found[found.lastindex or 1]))
            ):
                remove(entry)


def _is_alive(part: Path, process: int) -> bool:
    """Whether the process that writes a temporary file still runs."""
    if fcntl is not None:
        try:
            lock = lock_file(part)
        except BlockingIOError:
            return True
        unlock(lock)
        return lock is None
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def lock_file(path: Path) -> int | None:
    """Lock a file or folder for this process, until :func:`unlock` or its end.

    Processes that it forks do not hold the lock: data workers outlive one that was killed.

    Returns:
        The descriptor; None where nothing can be locked: on Windows and some network drives.

    Raises:
        BlockingIOError: another process holds it.
    """
    if fcntl is None:
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise
        return None
    _locks.add(descriptor)
    return descriptor


_locks: set[int] = set()


def unlock(descriptor: int | None) -> None:
    """Give up what :func:`lock_file` gave; None is nothing."""
    if descriptor in _locks:
        _locks.discard(descriptor)
        os.close(descriptor)


def _give_up_all() -> None:
    for descriptor in tuple(_locks):
        unlock(descriptor)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_give_up_all)


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_stamp(path: Path) -> str:
    """What tells a file from an altered one without reading all of it: its size, and a digest of
    18 blocks of 4 KiB from its beginning to its end.

    No time is in it: a copy on another machine has the same stamp.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        digest = hashlib.sha256()
        for n in range(18):
            file.seek(max(0, size - 4096) * n // 17)
            digest.update(file.read(4096))
    return f"{size}-{digest.hexdigest()[:16]}"


def as_json(record: Any) -> bytes:
    """A record as indented JSON; NaN and infinities become null, as JSON has neither."""

    def finite(value: Any) -> Any:
        if isinstance(value, float):
            return value if math.isfinite(value) else None
        if isinstance(value, dict):
            return {k: finite(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [finite(v) for v in value]
        return value

    return (json.dumps(finite(record), indent=2, allow_nan=False) + "\n").encode()
