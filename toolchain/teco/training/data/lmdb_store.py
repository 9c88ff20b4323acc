"""Frames in an LMDB as TecoGAN-PyTorch's ``scripts/create_lmdb.py`` writes it.

    GT.lmdb/data.mdb         key "{sequence}_{frames}x{height}x{width}_{number:04d}" in ASCII,
                             value height * width * 3 bytes of RGB
    GT.lmdb/meta_info.pkl    {"name": name of the set, "keys": [every key]}, pickled

``lmdb`` comes with the extra ``train``. The pickle is read as data: whatever it names beyond the
containers and numbers that pickles are made of is refused, not imported.
"""

from __future__ import annotations

import os
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from teco.core.errors import TecoError
from teco.core.machine import require_extra
from teco.training.data import frame_store
from teco.training.data.frame_store import LazyFrames
from teco_calibration.degrade import shrink_by_area

DATA = "data.mdb"
META = "meta_info.pkl"
_KEY = re.compile(r"(.+)_(\d+)x(\d+)x(\d+)_(\d+)", re.ASCII)
_HINT = "make it with TecoGAN-PyTorch's scripts/create_lmdb.py, or give the folders of frames"


@dataclass(frozen=True)
class LmdbSequence:
    """One clip of an LMDB: its name in the keys, frames, height and width."""

    name: str
    count: int
    height: int
    width: int

    def key(self, index: int) -> bytes:
        """The key of a frame."""
        return f"{self.name}_{self.count}x{self.height}x{self.width}_{index:04d}".encode()


def is_lmdb(folder: Path) -> bool:
    """Whether a folder is an LMDB, or was meant to be one."""
    return folder.is_dir() and ((folder / DATA).exists() or (folder / META).exists())


def read_sequences(folder: Path) -> tuple[str, list[LmdbSequence]]:
    """The name of the set and its sequences, by name, as the meta file lists them.

    Raises:
        TecoError: a file is missing, the meta file is no such pickle, a key does not follow the
            layout, or a sequence lacks frames.
    """
    for name, other in ((DATA, META), (META, DATA)):
        if not (folder / name).is_file():
            raise TecoError(
                f"{folder} holds {other} but no {name}, which an LMDB of frames needs", hint=_HINT
            )
    meta = _read_meta(folder / META)
    seen: dict[LmdbSequence, set[int]] = {}
    for key in meta["keys"]:
        match = _KEY.fullmatch(key)
        if not match:
            raise TecoError(
                f"{folder / META} lists the key {key[:80]!r}, expected "
                '"{sequence}_{frames}x{height}x{width}_{number}" such as "walk_32x720x1280_0000"',
                hint=_HINT,
            )
        name, *numbers = match.groups()
        count, height, width, index = map(int, numbers)
        seen.setdefault(LmdbSequence(name, count, height, width), set()).add(index)
    for sequence, found in seen.items():
        # Not all that the keys promise is counted through: a key may promise anything.
        lacking = next((i for i in range(len(found)) if i not in found), len(found))
        if lacking < sequence.count or len(found) != sequence.count:
            few = lacking < sequence.count
            some = f"lists no frame {lacking}" if few else f"lists {len(found)} frames"
            raise TecoError(
                f"{folder / META} {some} of sequence {sequence.name!r}, whose keys say it has "
                f"{sequence.count}",
                hint=_HINT,
            )
    return meta["name"], sorted(seen, key=lambda s: s.name)


class _Unpickler(pickle.Unpickler):
    """Builds nothing but what pickles have own opcodes for: containers, text and numbers."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        raise pickle.UnpicklingError(f"it wants {module_name}.{global_name}")


def _read_meta(path: Path) -> dict[str, Any]:
    """{"name": str, "keys": [str, ...]}, checked."""
    expected = 'expected a pickled {"name": text, "keys": [text, ...]}'
    try:
        with path.open("rb") as file:
            meta: Any = _Unpickler(file).load()
    except Exception as error:  # a pickle is a program; damaged ones fail in any way
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise TecoError(f"{path} cannot be read ({reason}); {expected}", hint=_HINT) from error
    keys: Any = meta.get("keys") if isinstance(meta, dict) else None
    if not isinstance(keys, list) or not keys or not all(isinstance(k, str) for k in keys):
        found = f"keys {sorted(map(str, meta))}" if isinstance(meta, dict) else type(meta).__name__
        if isinstance(keys, list) and not keys:
            found = "an empty list of keys"
        raise TecoError(f"{path} holds {found}; {expected}", hint=_HINT)
    return {"name": str(meta.get("name", "")), "keys": keys}


class LmdbFrames(LazyFrames):
    """The frames of one sequence, read from the memory-mapped file when asked for.

    A crop costs the copy of its pixels; nothing is decoded. With ``shrink`` whole frames are shrunk
    and kept in :data:`teco.training.data.frame_store.CACHE`.

    Args:
        folder: the LMDB.
        sequence: which clip.
        first, last: range of its frames.
        shrink: area shrink factor.
    """

    def __init__(
        self,
        folder: Path,
        sequence: LmdbSequence,
        first: int = 0,
        last: int | None = None,
        shrink: float = 1.0,
    ) -> None:
        height, width = sequence.height, sequence.width
        if shrink != 1:
            height, width = (max(1, round(side / shrink)) for side in (height, width))
        super().__init__(sequence.count, height, width)
        self._which = self._which[first:last]
        self._folder = folder.resolve()
        self._sequence = sequence
        self._shrink = shrink

    def _read(self, index: int, window: tuple[Any, ...]) -> NDArray[np.uint8]:
        if self._shrink == 1:
            return self._stored(index, window)
        key = (self._folder, self._sequence.key(index), self._shrink)
        frame = frame_store.CACHE.get(key)
        if frame is None:
            frame = shrink_by_area(self._stored(index, ()), self._shrink)
            frame.flags.writeable = False
            frame_store.CACHE.put(key, frame)
        return frame[window]

    def _stored(self, index: int, window: tuple[Any, ...]) -> NDArray[np.uint8]:
        import lmdb

        key = self._sequence.key(index)
        size = (self._sequence.height, self._sequence.width, 3)
        try:
            with _environment(self._folder).begin(buffers=True) as transaction:
                value = transaction.get(key)
                if value is None:
                    raise TecoError(
                        f"{self._folder / DATA} has no key {key.decode()!r}, which {META} lists",
                        hint=_HINT,
                    )
                if len(value) != size[0] * size[1] * 3:
                    raise TecoError(
                        f"{self._folder / DATA}: {key.decode()!r} holds {len(value)} bytes, "
                        f"expected {size[0] * size[1] * 3} of raw RGB",
                        hint=_HINT,
                    )
                # Copied: the buffer is the file's, and only while the transaction lasts.
                return np.frombuffer(value, np.uint8).reshape(size)[window].copy()
        except lmdb.Error as error:
            raise TecoError(f"{self._folder / DATA} cannot be read: {error}", hint=_HINT) from error


_environments: dict[Path, Any] = {}


def _environment(folder: Path) -> Any:
    """The open LMDB; one of each per process is all that lmdb allows."""
    if folder not in _environments:
        require_extra("lmdb", "torch", "reading an LMDB")
        import lmdb

        # Random reads of a file larger than memory: reading ahead would only push pages out.
        _environments[folder] = lmdb.open(
            str(folder), readonly=True, lock=False, readahead=False, create=False
        )
    return _environments[folder]


def close_all() -> None:
    """Close what is open; it is opened again when needed."""
    for environment in _environments.values():
        environment.close()
    _environments.clear()


# An environment must not be used across a fork (lmdb.h), and a worker could not open its own beside
# an inherited one. Both sides open theirs again at the next read.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=close_all)
