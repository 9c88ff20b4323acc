"""The finished parts of an unfinished output, kept beside it so that a long job survives.

Of a video file, each part is the packets of one encoder from its first frame to its last, written
beside and renamed. What was under way when the process ended is lost, the parts before it are not.

    .out.mkv.teco-segments/job.json           what is being made, of what
                           0000.packets       the packets of the first part
                           0000.json          its frames and where it ends: the part is whole

A part's packets are a head of :data:`_HEAD` each and their bytes. Of a folder of pictures, a part
is a folder ``0000`` of some of them, named as they will be.
"""

from __future__ import annotations

import contextlib
import json
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import av

from teco.core.errors import USAGE, TecoError
from teco.core.files import (
    Output,
    as_json,
    lock_file,
    remove,
    short_name,
    sync_folder,
    unlock,
    write_beside,
)
from teco.core.text import from_json

_HEAD = struct.Struct("<qqqqB")
"""Bytes, pts, dts, duration (in ticks of the picture's clock), 1 for a key frame."""


@dataclass(frozen=True)
class Segment:
    """One finished part.

    Attributes:
        frames: in it.
        last_pts: timestamp of its last frame, in ticks; pictures have none.
        end_ticks: where that frame ends.
        size: bytes of the pictures, by which one that is cut off is known; packets have none.
    """

    frames: int
    last_pts: int = 0
    end_ticks: int = 0
    size: int = 0


class Segments:
    """The parts of one output.

    Args:
        path: of the output.
        job: what is being made, of what and how, by names for people; all of it decides what the
            pictures look like.
        start_again: drop what is there where it was made otherwise.
        pictures: the output is a folder of them.

    Raises:
        TecoError: another process is at it, or what is there was made otherwise (exit code 2).
    """

    def __init__(
        self, path: Path, job: Mapping[str, str], *, start_again: bool, pictures: bool = False
    ) -> None:
        self.folder = folder_of(path)
        self._pictures = pictures
        self.done: list[Segment] = []
        self._under_way: tuple[Output, BinaryIO] | None = None
        self.folder.mkdir(exist_ok=True)
        try:
            self._lock = lock_file(self.folder)
        except BlockingIOError as error:
            raise TecoError(
                f"another run is writing {path}", hint="wait for its end", exit_code=USAGE
            ) from error
        try:
            self._enter(path, job, start_again=start_again)
        except BaseException:
            self._unlock()
            raise

    def _enter(self, path: Path, job: Mapping[str, str], *, start_again: bool) -> None:
        file = self.folder / "job.json"
        before = _read(file)
        if before is not None and before != dict(job):
            keys = [k for k in {**before, **job} if before.get(k) != job.get(k)]
            changes = "; ".join(
                f"{k} was {before.get(k) or 'none'}, is {job.get(k) or 'none'}" for k in keys
            )
            if not start_again:
                raise TecoError(
                    f"the unfinished {path} was made otherwise: {changes}",
                    hint="give the same options to go on with it, or --force to start again",
                    exit_code=USAGE,
                )
            before = None
        if before is None:
            for entry in self.folder.iterdir():
                remove(entry)
            write_beside(file, as_json(dict(job)))
        while (segment := self._read_segment(len(self.done))) is not None:
            self.done.append(segment)
        if self._pictures:
            remove(self.pictures)  # what was under way

    @property
    def frames(self) -> int:
        """Frames of all finished parts."""
        return sum(s.frames for s in self.done)

    def add(self, packet: Any) -> None:
        """A packet of the part under way, as its encoder gives it."""
        if self._under_way is None:
            output = Output(self._file(len(self.done)))
            self._under_way = output, output.part.open("wb")
        data = bytes(packet)
        head = _HEAD.pack(
            len(data), packet.pts, packet.dts, packet.duration or 0, packet.is_keyframe
        )
        self._under_way[1].write(head + data)

    def finish(self, segment: Segment) -> None:
        """The part under way is whole."""
        if self._pictures:
            segment = replace(segment, size=sync_folder(self.pictures))
        if self._under_way is not None:
            output, file = self._under_way
            file.close()
            output.commit()
            self._under_way = None
        write_beside(self._file(len(self.done)).with_suffix(".json"), as_json(asdict(segment)))
        self.done.append(segment)

    def packets(self) -> Iterator[Any]:
        """All packets of the finished parts, in order, with timestamps in ticks."""
        for number in range(len(self.done)):
            with self._file(number).open("rb") as file:
                while head := file.read(_HEAD.size):
                    size, pts, dts, duration, key = _HEAD.unpack(head)
                    packet = av.Packet(file.read(size))
                    packet.pts, packet.dts, packet.duration = pts, dts, duration
                    packet.is_keyframe = bool(key)
                    yield packet

    @property
    def pictures(self) -> Path:
        """Where the pictures of the part under way belong."""
        return self.folder / f"{len(self.done):04d}"

    def all_pictures(self) -> Iterator[Path]:
        """Those of the finished parts."""
        for number in range(len(self.done)):
            yield from (self.folder / f"{number:04d}").iterdir()

    def keep(self) -> bool:
        """Leave what is whole for another run; whether there is anything."""
        if self._under_way is not None:
            output, file = self._under_way
            self._under_way = None
            with contextlib.suppress(OSError):  # what is not written yet, on a full disk
                file.close()
            output.abort()
        if not self.done:
            self.forget()
            return False
        self._unlock()
        return True

    def forget(self) -> None:
        """Remove the parts: the output is whole, or there are none."""
        remove(self.folder)
        self._unlock()

    def _unlock(self) -> None:
        lock, self._lock = self._lock, None
        unlock(lock)

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:04d}.packets"

    def _read_segment(self, number: int) -> Segment | None:
        """A finished part; None where there is none, or it is not as it was left."""
        file = self._file(number)
        data = _read(file.with_suffix(".json"))
        if data is None:
            return None
        try:
            segment = Segment(**{k: int(v) for k, v in data.items()})
            if self._pictures:
                sizes = [p.stat().st_size for p in self.pictures.iterdir()]
                is_whole = (len(sizes), sum(sizes)) == (segment.frames, segment.size)
            else:
                is_whole = file.is_file()
        except (TypeError, ValueError, OSError):
            return None
        return segment if is_whole else None


def folder_of(path: Path) -> Path:
    """Where the parts of an output lie."""
    return path.with_name(f".{short_name(path)}.teco-segments")


@dataclass(frozen=True)
class Begun:
    """How an earlier run made what it did not finish.

    Attributes:
        runtime: its name.
        window: LR (h, w) of tiles, None for whole frames.
        model: what tells it from others; "" where that was not said.
    """

    runtime: str
    window: tuple[int, int] | None
    model: str = ""

    @property
    def choice(self) -> str:
        """As ``among`` of :func:`teco.runtimes.choose` takes it."""
        return f"{self.runtime} {self.model}".strip()


def unfinished(path: Path) -> Begun | None:
    """What an earlier run left of an output; None where there is nothing, or what is there tells
    neither, which :class:`Segments` then says."""
    job = _read(folder_of(path) / "job.json") or {}
    runtime, tile = str(job.get("runtime", "")), re.fullmatch(r"(\d+)x(\d+)|", str(job.get("tile")))
    if not re.fullmatch(r"[a-z0-9-]+", runtime) or tile is None:
        return None
    window = (int(tile[1]), int(tile[2])) if tile[1] else None
    return Begun(runtime, window, str(job.get("model", "")))


def drop_unfinished(path: Path) -> None:
    """Remove what an earlier run left of an output that is now whole."""
    folder = folder_of(path)
    if not folder.is_dir():
        return
    with contextlib.suppress(BlockingIOError):  # another run is at it
        lock = lock_file(folder)
        remove(folder)
        unlock(lock)


def _read(file: Path) -> dict[str, Any] | None:
    try:
        data = from_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return cast("dict[str, Any]", data) if isinstance(data, dict) else None


def describe(options: Mapping[str, Any]) -> dict[str, str]:
    """Options as a job's description: JSON of each value."""
    return {name: json.dumps(value, default=str) for name, value in options.items()}
