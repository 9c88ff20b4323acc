"""Training data: what a folder is taken for, where pixels are kept, parts of a batch."""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import pickle
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest
import torch

from teco.core.errors import TecoError
from teco.training.data import frame_store, lmdb_store, sequences
from teco.training.data.frame_store import FrameCache, ImageFrames, read_picture
from teco.training.data.layouts import find_clips, is_low_resolution
from teco.training.data.prepare import StoreOptions, prepare
from teco.training.data.realworld import RealWorld
from teco.training.data.sequences import (
    SampleOptions,
    SequenceDataset,
    Shot,
    batches,
    notices,
    shot_of,
    slice_batch,
)

LAZY = StoreOptions(decoded_limit=0)


class Said:
    """What was said while a test ran."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "teco")
        self._caplog = caplog

    def __len__(self) -> int:
        return len(self._caplog.messages)

    def __getitem__(self, which: slice) -> list[str]:
        return self._caplog.messages[which]

    def has(self, *words: str) -> bool:
        return any(all(word in line for word in words) for line in self._caplog.messages)


@pytest.fixture
def said(caplog) -> Said:
    return Said(caplog)


@pytest.fixture
def frames(texture):
    """Frames of a moving texture, 96x80, as one array."""
    return lambda count=5, seed=0, width=96, height=80: np.stack(
        texture(count, width, height, seed=seed)
    )


@pytest.fixture
def folder(tmp_path, make_pictures):
    """Make a folder of pictures, with its parents."""

    def make(name: str, pixels) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return make_pictures(path, list(pixels))

    return make


def write_lmdb(
    path: Path, clips: dict[str, np.ndarray], name: str = "VimeoTecoGAN", **changes
) -> Path:
    """As TecoGAN-PyTorch's create_lmdb.py lays it out; ``changes`` replace parts of the meta."""
    path.parent.mkdir(parents=True, exist_ok=True)
    keys = []
    with lmdb.open(str(path), map_size=1 << 24) as env, env.begin(write=True) as transaction:
        for clip, pixels in clips.items():
            n, h, w, _ = pixels.shape
            for i, picture in enumerate(pixels):
                keys.append(f"{clip}_{n}x{h}x{w}_{i:04d}")
                transaction.put(keys[-1].encode("ascii"), np.ascontiguousarray(picture))
    meta = {"name": name, "keys": keys, **changes}
    (path / "meta_info.pkl").write_bytes(pickle.dumps(meta))
    return path


@pytest.fixture(autouse=True)
def _closed_databases():
    yield
    lmdb_store.close_all()
    frame_store.CACHE.clear()


def names(shots: list[Shot]) -> list[str]:
    return [shot.name.split("-")[0] for shot in shots]


# --- folders of frames -----------------------------------------------------------------------


@pytest.mark.parametrize("store", [StoreOptions(), LAZY])
def test_folders_of_frames_are_clips(tmp_path, folder, frames, store) -> None:
    a, b = frames(seed=1), frames(3, seed=2, width=120)
    folder("data/walk", a)
    folder("data/run", b)
    (tmp_path / "data" / "notes").mkdir()
    shots = prepare([tmp_path / "data"], tmp_path / "cache", store=store)
    assert names(shots) == ["data_run", "data_walk"]
    for shot, pixels in zip(shots, (b, a), strict=True):
        assert tuple(shot.frames.shape) == pixels.shape
        assert len(shot.frames) == len(pixels)
        for i in range(len(pixels)):
            assert np.array_equal(shot.frames[i], pixels[i])
        assert np.array_equal(shot.frames[-1], pixels[-1])
        assert np.array_equal(shot.frames[2, 5:40, 7:30], pixels[2, 5:40, 7:30])
        assert np.array_equal(shot.frames[1:][0], pixels[1])
        assert shot.frames[1:].shape == pixels[1:].shape
        assert np.array_equal(np.stack(list(shot.frames[::2])), pixels[::2])
        with pytest.raises(IndexError):
            shot.frames[len(pixels)]
        with pytest.raises(ValueError, match="read-only"):
            shot.frames[0][0, 0, 0] = 1
        assert shot.detail == pytest.approx(shot_of("", pixels).detail, rel=0.05)
    raws = list((tmp_path / "cache").glob("*.raw"))
    assert len(raws) == (0 if store is LAZY else 2)


def test_the_frames_may_lie_in_the_data_folder_itself(tmp_path, folder, frames) -> None:
    pixels = frames(12)  # natural order: 9 before 10
    path = folder("walk", pixels)
    for n, file in enumerate(sorted(path.iterdir())):
        file.rename(path / f"f{n}.png")
    (shot,) = prepare([path], tmp_path / "cache")
    assert all(np.array_equal(shot.frames[i], pixels[i]) for i in range(12))


@pytest.mark.parametrize("store", [StoreOptions(), LAZY])
def test_cuts_divide_plain_folders(tmp_path, folder, frames, said, store) -> None:
    folder("data/two", np.concatenate([frames(6, seed=1), frames(7, seed=2)]))
    shots = prepare([tmp_path / "data"], tmp_path / "cache", store=store)
    assert [len(s.frames) for s in shots] == [6, 7]
    assert said.has("cuts") == (store is LAZY)
    again = prepare([tmp_path / "data"], tmp_path / "cache", store=store)
    assert [(s.name, s.detail) for s in again] == [(s.name, s.detail) for s in shots]


@pytest.mark.parametrize("store", [StoreOptions(), LAZY])
def test_clips_toml_shrinks_and_shortens_folders(tmp_path, folder, frames, store) -> None:
    pixels = frames(6)
    folder("data/walk", pixels)
    (tmp_path / "data" / "clips.toml").write_text("[clips.walk]\nshrink = 2\nframes = [1, 4]\n")
    (shot,) = prepare([tmp_path / "data"], tmp_path / "cache", store=store)
    assert tuple(shot.frames.shape) == (3, 40, 48, 3)
    expected = cv2.resize(pixels[2], (48, 40), interpolation=cv2.INTER_AREA)
    assert np.array_equal(shot.frames[1], expected)
    assert np.array_equal(shot.frames[1, 3:9, 2:5], expected[3:9, 2:5])
    (tmp_path / "data" / "clips.toml").write_text("[clips.walk]\nframes = [1, 2]\n")
    with pytest.raises(TecoError, match="'walk' leave 1 of its 6 frames"):
        prepare([tmp_path / "data"], tmp_path / "cache", store=store)


def test_jpeg_is_shrunk_and_png_is_not(tmp_path, folder, frames) -> None:
    for name in ("png", "jpg"):
        path = folder(f"data/{name}", frames())
        for file in path.iterdir() if name == "jpg" else ():
            cv2.imwrite(str(file.with_suffix(".jpg")), cv2.imread(str(file)))
            file.unlink()
    shots = prepare([tmp_path / "data"], tmp_path / "cache")
    assert [tuple(s.frames.shape[1:3]) for s in shots] == [(40, 48), (80, 96)]


def test_small_sets_are_decoded_once(tmp_path, folder, frames, said, monkeypatch) -> None:
    path = folder("data/walk", frames())
    prepare([tmp_path / "data"], tmp_path / "cache")
    assert said.has("decoding", "data/walk")
    count = len(said)

    def never(_file: Path) -> None:
        raise AssertionError("decoded again")

    with monkeypatch.context() as patch:
        patch.setattr("teco.training.data.prepare.read_picture", never)
        prepare([tmp_path / "data"], tmp_path / "cache")
    os.utime(path / "0000.png", (1, 1))  # as a copy on another machine has it
    prepare([tmp_path / "data"], tmp_path / "cache")
    assert len(said) == count
    shutil.copy(path / "0001.png", path / "0000.png")
    prepare([tmp_path / "data"], tmp_path / "cache")
    assert len(said) == count + 1


def test_opening_many_frames_decodes_few(tmp_path, folder, frames, monkeypatch) -> None:
    """Three frames of each clip the first time, none the second."""
    clip = folder("REDS/train_sharp/001", frames(40, width=32, height=24))
    for n in range(2, 8):
        shutil.copytree(clip, clip.parent / f"{n:03d}")
    read: list[Path] = []

    def counted(file: Path) -> np.ndarray:
        read.append(file)
        return read_picture(file)

    monkeypatch.setattr("teco.training.data.prepare.read_picture", counted)
    monkeypatch.setattr("teco.training.data.frame_store.read_picture", counted)
    shots = prepare([tmp_path / "REDS"], tmp_path / "cache", store=LAZY)
    assert len(shots) == 7
    assert len({*read}) == 7 * 3
    read.clear()
    prepare([tmp_path / "REDS"], tmp_path / "cache", store=LAZY)
    assert read == []
    shots[3].frames[5]
    assert [f.name for f in read] == ["0005.png"]


def test_crops_of_a_large_set_are_cut_once(tmp_path, folder, frames, said) -> None:
    pixels = frames(4, width=140, height=90)
    pixels[:, :, :70] = 128  # nothing to see in the left half
    folder("REDS/train_sharp/001", pixels)
    folder("REDS/train_sharp/002", frames(4, seed=5, width=60, height=50))
    store = StoreOptions(decoded_limit=0, crops=3, crop_size=44)
    shots = prepare([tmp_path / "REDS"], tmp_path / "cache", store=store)
    # A grid of 2x3 windows, three drawn; and of the small clip the only one.
    assert [tuple(s.frames.shape) for s in shots] == [(4, 44, 44, 3)] * 4
    assert said.has("cut crops from 2 of 2")
    grid = [(y, x) for y in (0, 46) for x in (0, 48, 96)]
    places = [
        [(y, x) for y, x in grid if np.array_equal(s.frames[1], pixels[1, y : y + 44, x : x + 44])]
        for s in shots[:3]
    ]
    # The flat half weighs a hundredth of the other; of six windows two are flat.
    assert all(len(found) == 1 for found in places)
    assert len({found[0] for found in places}) == 3
    assert all(found[0][1] > 0 for found in places)
    other = tmp_path / "copy"
    shutil.copytree(tmp_path / "REDS", other, copy_function=shutil.copyfile)
    same_windows = prepare([other], tmp_path / "cache2", store=store)
    assert all(
        np.array_equal(a.frames[0], b.frames[0]) for a, b in zip(shots, same_windows, strict=True)
    )
    count = len(said)
    again = prepare([tmp_path / "REDS"], tmp_path / "cache", store=store)
    assert [s.name for s in again] == [s.name for s in shots]
    assert not any("cut crops" in line for line in said[count:])


def alike(files: list[Path]) -> None:
    """Make files equal in size and time, as ``cp -p`` and a frame rate of zeros leave them."""
    size = max(file.stat().st_size for file in files)
    for file in files:
        file.write_bytes(file.read_bytes().ljust(size, b"\0"))
        os.utime(file, (1, 1))


@pytest.mark.parametrize("store", [
    StoreOptions(), LAZY, StoreOptions(decoded_limit=0, crops=1, crop_size=40),
])  # fmt: skip
def test_folders_of_equal_names_sizes_and_times_are_two_clips(
    tmp_path, folder, frames, store
) -> None:
    for seed, place in enumerate("ab"):
        path = folder(f"{place}/data/walk", frames(3, seed=seed))
        alike(list(path.iterdir()))
    files = sorted(tmp_path.glob("?/data/walk/*.png"))
    alike(files)
    (one,), (other,) = (
        prepare([tmp_path / place / "data"], tmp_path / "cache", store=store) for place in "ab"
    )
    pixels = np.array(other.frames[0])
    assert not np.array_equal(one.frames[0], pixels)
    assert one.detail != other.detail
    # A run goes on where its data was moved to: its shots are still called the same.
    (tmp_path / "b").rename(tmp_path / "c")
    (moved,) = prepare([tmp_path / "c" / "data"], tmp_path / "cache", store=store)
    assert (moved.name, moved.detail) == (other.name, other.detail)
    assert np.array_equal(moved.frames[0], pixels)


def test_videos_and_databases_of_equal_names_sizes_and_times_are_two_clips(
    tmp_path, frames, make_clip
) -> None:
    pixels = {place: frames(3, seed=seed) for seed, place in enumerate("ab")}
    for n, place in enumerate("ab"):
        (tmp_path / "films" / place).mkdir(parents=True)
        make_clip(tmp_path / "films" / place / "city.mp4", width=96, height=80, frames=3 + n)
        write_lmdb(tmp_path / "stores" / place / "x.lmdb", {"walk": pixels[place]})
    alike(sorted(tmp_path.glob("films/?/city.mp4")))
    alike(sorted(tmp_path.glob("stores/?/x.lmdb/data.mdb")))
    films = [prepare([tmp_path / "films" / place], tmp_path / "cache")[0] for place in "ab"]
    assert [len(shot.frames) for shot in films] == [3, 4]
    stores = [
        prepare([tmp_path / "stores" / place / "x.lmdb"], tmp_path / "cache")[0] for place in "ab"
    ]
    details = [shot_of("", pixels[place]).detail for place in "ab"]
    assert [shot.detail for shot in stores] == pytest.approx(details)
    assert details[0] != details[1]


@pytest.mark.parametrize("store", [
    StoreOptions(), LAZY, StoreOptions(decoded_limit=0, crops=2, crop_size=40),
])  # fmt: skip
@pytest.mark.parametrize("contents", [
    b"", b"{", b"[]", b"[0, 7]", b'"x"', b"\xff", b"{}",
    b'{"shape": [9, 9, 9, 3], "cuts": []}', b'{"bounds": [0, 9], "details": [1.0]}', None,
])  # fmt: skip
def test_a_damaged_cache_is_made_again(tmp_path, folder, frames, store, contents) -> None:
    folder("data/walk", frames(4))
    first = prepare([tmp_path / "data"], tmp_path / "cache", store=store)
    kept = {f: f.read_bytes() for f in (tmp_path / "cache").iterdir()}
    pixels = [np.array(shot.frames[0:4]) for shot in first]
    for file, before in kept.items():
        if contents is None:
            file.unlink()
        else:
            file.write_bytes(contents)
        again = prepare([tmp_path / "data"], tmp_path / "cache", store=store)
        assert [(s.name, s.detail) for s in again] == [(s.name, s.detail) for s in first]
        for shot, expected in zip(again, pixels, strict=True):
            assert np.array_equal(np.array(shot.frames[0:4]), expected)
        assert file.read_bytes() == before
    assert {*(tmp_path / "cache").iterdir()} == {*kept}


def test_frames_are_on_the_disk_before_their_record(tmp_path, folder, frames, monkeypatch) -> None:
    folder("data/walk", frames(3))
    synced: list[int] = []
    real = os.fsync

    def watched(fd: int) -> None:
        if stat.S_ISREG((found := os.fstat(fd)).st_mode):  # not the folders
            synced.append(found.st_size)
        real(fd)

    monkeypatch.setattr(os, "fsync", watched)
    prepare([tmp_path / "data"], tmp_path / "cache")
    record = next(f for f in (tmp_path / "cache").glob("*.json") if "size" not in f.name)
    assert synced[-2:] == [3 * 80 * 96 * 3, record.stat().st_size]


# --- REDS ------------------------------------------------------------------------------------


@pytest.mark.parametrize("unpacked", [False, True])
def test_reds_leaves_out_its_test_clips_and_numbers_validation(
    tmp_path, folder, frames, said, unpacked
) -> None:
    train, val = ("train/", "val/") if unpacked else ("", "")
    clips = {n: frames(2, seed=n) for n in (0, 1, 11, 15, 20, 239)}
    for n, pixels in clips.items():
        folder(f"DIR/{train}train_sharp/{n:03d}", pixels)
        folder(f"DIR/{train}train_blur/{n:03d}", pixels)
    for n in (0, 11, 29):
        folder(f"DIR/{val}val_sharp/{n:03d}", frames(2, seed=300 + n))
    shots = prepare([tmp_path / "DIR"], tmp_path / "cache")
    assert names(shots) == [f"REDS_{n}" for n in ("001", "239", "240", "251", "269")]
    assert np.array_equal(shots[0].frames[1], clips[1][1])
    assert np.array_equal(shots[3].frames[0], frames(2, seed=311)[0])
    assert said.has("left out REDS4 (000, 011, 015, 020)")


def test_reds_parts_can_be_given_alone(tmp_path, folder, frames, said) -> None:
    for n in (0, 1):
        folder(f"x/train_sharp/{n:03d}", frames(2, seed=n))
        folder(f"x/val_sharp/{n:03d}", frames(2, seed=9 + n))
    both = prepare([tmp_path / "x"], tmp_path / "cache")
    parts = [tmp_path / "x" / part for part in ("train_sharp", "val_sharp")]
    assert names(prepare(parts, tmp_path / "cache")) == ["REDS_001", "REDS_240", "REDS_241"]
    assert names(both) == ["REDS_001", "REDS_240", "REDS_241"]
    doubled = prepare([tmp_path / "x", parts[1]], tmp_path / "cache")
    assert len(doubled) == 3
    assert said.has("left out 000", "there already")


def test_reds_is_one_shot_a_clip_and_takes_options(tmp_path, folder, frames) -> None:
    cut = np.concatenate([frames(5, seed=1), frames(5, seed=2)])
    folder("REDS/train_sharp/001", cut)
    (shot,) = prepare([tmp_path / "REDS"], tmp_path / "cache")
    assert len(shot.frames) == 10
    (tmp_path / "REDS" / "clips.toml").write_text('[clips."train_sharp/001"]\nframes = [0, 3]\n')
    (shot,) = prepare([tmp_path / "REDS"], tmp_path / "cache")
    assert len(shot.frames) == 3


def test_a_clip_of_reds_that_is_there_twice_is_an_error(tmp_path, folder, frames) -> None:
    folder("REDS/train_sharp/240", frames(2))
    folder("REDS/val_sharp/000", frames(2))
    with pytest.raises(TecoError, match="REDS clip 240 is there twice"):
        find_clips(tmp_path / "REDS")


@pytest.mark.parametrize(
    ("place", "left"),
    [
        ("REDS/sharp", ["001"]),
        ("my/sharp", ["000", "001"]),
        ("freds/sharp", ["000", "001"]),
        ("REDS/val", ["000", "001"]),
    ],
)
def test_reds_under_other_names(tmp_path, folder, frames, said, place, left) -> None:
    for n in (0, 1):
        folder(f"{place}/{n:03d}", frames(2, seed=n))
    assert [c.name for c in find_clips(tmp_path / place)] == left
    assert said.has("REDS4") == (len(left) == 1)


def test_as_many_numbered_folders_as_reds_has_are_taken_for_it(tmp_path, frames, said) -> None:
    for n in range(240):
        (tmp_path / f"{n:03d}").mkdir()
        (tmp_path / f"{n:03d}" / "0.png").touch()
    assert len(find_clips(tmp_path)) == 236
    assert said.has("looks like REDS", "000, 011, 015, 020")


# --- LMDB ------------------------------------------------------------------------------------


def test_an_lmdb_is_read_by_its_keys(tmp_path, frames) -> None:
    clips = {"walk_2": frames(4, seed=1), "run": frames(3, seed=2, width=120)}
    path = write_lmdb(tmp_path / "GT.lmdb", clips)
    shots = prepare([path], tmp_path / "cache")
    assert names(shots) == ["GT.lmdb_run", "GT.lmdb_walk_2"]
    for shot, pixels in zip(shots, (clips["run"], clips["walk_2"]), strict=True):
        assert tuple(shot.frames.shape) == pixels.shape
        assert np.array_equal(shot.frames[2], pixels[2])
        assert np.array_equal(shot.frames[-1, 3:9, 4:6], pixels[-1, 3:9, 4:6])
        assert np.array_equal(shot.frames[1:3][1], pixels[2])
        assert shot.detail == pytest.approx(shot_of("", pixels).detail, rel=0.05)
    assert not list((tmp_path / "cache").glob("*.raw"))


def test_an_lmdb_beside_other_clips(tmp_path, folder, frames, said, make_clip) -> None:
    write_lmdb(tmp_path / "set" / "GT.lmdb", {"walk": frames(4)})
    write_lmdb(tmp_path / "set" / "Bicubic4xLR.lmdb", {"walk": frames(4)[:, ::4, ::4]})
    folder("set/run", frames(3))
    make_clip(tmp_path / "set" / "a.mp4", pixels=list(frames(4)))
    toml = '[clips."GT.lmdb/walk"]\nshrink = 2\nframes = [1, 4]\n'
    (tmp_path / "set" / "clips.toml").write_text(toml)
    shots = prepare([tmp_path / "set"], tmp_path / "cache")
    assert names(shots) == ["a.mp4", "set_run", "GT.lmdb_walk"]
    assert said.has("Bicubic4xLR.lmdb", "low-resolution")
    shrunk = cv2.resize(frames(4)[1], (48, 40), interpolation=cv2.INTER_AREA)
    assert tuple(shots[2].frames.shape) == (3, 40, 48, 3)
    assert np.array_equal(shots[2].frames[0, :7], shrunk[:7])


def test_reds4_is_left_out_of_an_lmdb(tmp_path, frames, said) -> None:
    clips = {name: frames(2) for name in ("000", "001", "015")}
    named = write_lmdb(tmp_path / "a" / "GT.lmdb", clips, name="REDS")
    assert names(prepare([named], tmp_path / "cache")) == ["GT.lmdb_001"]
    assert said.has("000, 015", "REDS4")
    other = write_lmdb(tmp_path / "b" / "GT.lmdb", clips, name="Mine")
    assert len(prepare([other], tmp_path / "cache")) == 3


def test_workers_read_an_lmdb_that_the_parent_has_open(tmp_path, frames) -> None:
    pixels = frames(8)
    path = write_lmdb(tmp_path / "GT.lmdb", {"walk": pixels})
    shots = prepare([path], tmp_path / "cache")
    dataset = SequenceDataset(shots, SampleOptions(crop=64, frames=3, batch=1, with_flow=False), 4)
    here = [dataset[n].hr for n in range(4)]
    for workers in (1, 2):
        there = [sample.hr for sample in batches(dataset, workers=workers)]
        assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))
    assert torch.equal(dataset[1].hr, here[1])  # and the parent reads on


class Evil:
    def __reduce__(self):
        return (os.system, ("exit 3",))


@pytest.mark.parametrize(
    ("meta", "says"),
    [
        (pickle.dumps({"name": "x", "keys": [Evil()]}), r"posix\.system"),
        (pickle.dumps({"name": "x", "keys": np.zeros(2)}), "numpy"),
        (pickle.dumps(["walk_2x4x4_0000"]), "holds list"),
        (pickle.dumps({"name": "x", "images": []}), r"holds keys \['images', 'name'\]"),
        (pickle.dumps({"keys": []}), "an empty list of keys"),
        (pickle.dumps({"keys": [3]}), "holds keys"),
        (pickle.dumps({"keys": ["walk/0000"]}), "lists the key 'walk/0000'"),
        (pickle.dumps({"keys": ["walk_2x80x96_0000"]}), "lists no frame 1 of sequence 'walk'"),
        (pickle.dumps({"keys": [f"w_2x80x96_{i:04d}" for i in range(3)]}), "lists 3 frames"),
        (b"", "cannot be read"),
        (b"text, no pickle", "cannot be read"),
    ],
)
def test_bad_meta_files(tmp_path, frames, meta, says) -> None:
    path = write_lmdb(tmp_path / "GT.lmdb", {"walk": frames(2)})
    (path / "meta_info.pkl").write_bytes(meta)
    with pytest.raises(TecoError, match=says) as error:
        find_clips(path)
    assert "create_lmdb.py" in error.value.hint


def test_bad_databases(tmp_path, frames) -> None:
    path = write_lmdb(tmp_path / "GT.lmdb", {"walk": frames(2)})
    (path / "meta_info.pkl").rename(path / "meta")
    with pytest.raises(TecoError, match=r"holds data\.mdb but no meta_info\.pkl"):
        prepare([path], tmp_path / "cache")
    (path / "meta").rename(path / "meta_info.pkl")
    keys = [f"run_2x80x96_{i:04d}" for i in range(2)]
    (path / "meta_info.pkl").write_bytes(pickle.dumps({"name": "x", "keys": keys}))
    with pytest.raises(TecoError, match="has no key 'run_2x80x96_0000'"):
        prepare([path], tmp_path / "cache")
    lmdb_store.close_all()
    with lmdb.open(str(path), map_size=1 << 24) as env, env.begin(write=True) as transaction:
        transaction.put(keys[0].encode(), b"PNG, by mistake")
    lmdb_store.close_all()
    with pytest.raises(TecoError, match="holds 15 bytes, expected 23040"):
        prepare([path], tmp_path / "cache")
    lmdb_store.close_all()
    (path / "data.mdb").write_bytes(b"rubbish" * 2000)
    with pytest.raises(TecoError, match=r"cannot be read: .*not an LMDB"):
        prepare([path], tmp_path / "cache")
    (path / "data.mdb").unlink()
    with pytest.raises(TecoError, match=r"holds meta_info\.pkl but no data\.mdb"):
        prepare([path], tmp_path / "cache")


def test_without_lmdb_the_extra_is_named(tmp_path, frames, monkeypatch) -> None:
    path = write_lmdb(tmp_path / "GT.lmdb", {"walk": frames(2)})
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(TecoError, match="reading an LMDB needs lmdb") as error:
        prepare([path], tmp_path / "cache")
    assert error.value.hint == "pip install 'teco[train]'"
    assert error.value.exit_code == 3


# --- bad folders -----------------------------------------------------------------------------


def test_an_unknown_layout_says_what_is_there_and_what_is_expected(tmp_path) -> None:
    (tmp_path / "a.txt").touch()
    (tmp_path / "b").mkdir()
    with pytest.raises(TecoError, match=r"holds no clips \(found a\.txt, b/\)") as error:
        find_clips(tmp_path)
    for layout in ("a.mp4", "walk/0000.png", "train_sharp/000/00000000.png", "meta_info.pkl"):
        assert layout in error.value.hint
    assert error.value.exit_code == 2
    (tmp_path / "file").touch()
    for path, says in ((tmp_path / "file", "a file"), (tmp_path / "none", "missing")):
        with pytest.raises(TecoError, match=says):
            find_clips(path)


@pytest.mark.parametrize("below", ["films/walk", "films/train_sharp/001"])
def test_a_folder_too_high_up_names_the_right_one(tmp_path, folder, frames, below) -> None:
    folder(f"all/{below}", frames(2))
    folder("all/BIx4/walk", frames(2))
    with pytest.raises(TecoError) as error:
        find_clips(tmp_path / "all")
    assert error.value.hint == f"--data {tmp_path / 'all' / 'films'} does hold clips"
    assert find_clips(tmp_path / "all" / "films")


# --- ground truth beside low-resolution frames, and Vimeo-90K --------------------------------


@pytest.mark.parametrize("low", ["BIx4", "BD", "Gaussian4xLR", "LRx4", "X4", "LR_bicubic", "lq"])
@pytest.mark.parametrize("truth", ["GT", "hr", "HighRes"])
def test_of_pairs_only_the_truth_is_taken(tmp_path, folder, frames, said, truth, low) -> None:
    for name in ("calendar", "walk"):
        folder(f"set/{truth}/{name}", frames(2))
        folder(f"set/{low}/{name}", frames(2))
    assert [c.name for c in find_clips(tmp_path / "set")] == [
        f"{truth}/calendar", f"{truth}/walk",
    ]  # fmt: skip
    assert said.has("left out", low)


def test_low_resolution_frames_are_never_proposed(tmp_path, folder, frames) -> None:
    folder("set/BIx4/walk", frames(2))
    with pytest.raises(TecoError) as error:
        find_clips(tmp_path / "set")
    assert "BIx4" not in error.value.hint


@pytest.mark.parametrize(
    "name",
    [
        "walk",
        "calendar",
        "alright",
        "train_sharp",
        "x4000",
        "polar",
        "blq",
        "GT",
        "flower",
        "matrix4",
        "index3",
        "vertex4",
        "user_input",
    ],
)
def test_ordinary_names_are_not_taken_for_low_resolution(name) -> None:
    assert not is_low_resolution(name)


@pytest.fixture
def vimeo(tmp_path, folder, frames) -> Path:
    for name in ("00001/0001", "00001/0002", "00002/0001"):
        folder(f"vimeo_septuplet/sequences/{name}", frames(7))
    root = tmp_path / "vimeo_septuplet"
    (root / "sep_trainlist.txt").write_text("00001/0001\n00001/0002\n\n")
    (root / "sep_testlist.txt").write_text("00002/0001\n")
    return root


def test_vimeo_by_its_own_list(vimeo, said) -> None:
    clips = find_clips(vimeo)
    assert [c.name for c in clips] == ["sequences/00001/0001", "sequences/00001/0002"]
    assert said.has("2 clips of sep_trainlist.txt", "test clips are left out")
    with pytest.raises(TecoError) as error:
        find_clips(vimeo.parent)
    assert error.value.hint == f"--data {vimeo} does hold clips"


def test_vimeo_without_its_training_list_is_refused(vimeo) -> None:
    (vimeo / "sep_trainlist.txt").unlink()
    with pytest.raises(TecoError, match=r"no sep_trainlist\.txt"):
        find_clips(vimeo)


def test_a_list_that_leads_elsewhere_is_refused(vimeo) -> None:
    (vimeo / "sep_trainlist.txt").write_text("../../secret\n")
    with pytest.raises(TecoError, match="expected a clip such as"):
        find_clips(vimeo)


def test_clips_of_the_list_that_are_not_there_are_counted(vimeo, said) -> None:
    (vimeo / "sep_trainlist.txt").write_text("00001/0001\n00009/0009\n")
    assert len(find_clips(vimeo)) == 1
    assert said.has("1 of 2 clips", "00009/0009")


def test_reds_without_sharp_frames(tmp_path, folder, frames) -> None:
    folder("REDS/train_sharp_bicubic/X4/001", frames(2))
    with pytest.raises(TecoError, match=r"without sharp frames \(found train_sharp_bicubic\)"):
        find_clips(tmp_path / "REDS")
    (tmp_path / "REDS" / "train_sharp").mkdir()
    with pytest.raises(TecoError, match="train_sharp holds no clips: found nothing"):
        find_clips(tmp_path / "REDS")
    (tmp_path / "REDS" / "train_sharp" / "001").mkdir()
    with pytest.raises(TecoError, match="001 holds no pictures"):
        find_clips(tmp_path / "REDS")


def test_frames_beside_folders_of_frames_are_ambiguous(tmp_path, folder, frames, said) -> None:
    path = folder("data", frames(3))
    folder("data/walk", frames(3))
    with pytest.raises(TecoError, match=r"3 pictures .* and 1 folders of pictures"):
        find_clips(path)
    for name in ("0001.png", "0002.png"):
        (path / name).unlink()
    shots = prepare([path], tmp_path / "cache")  # one alone is a cover, no clip
    assert names(shots) == ["data_walk"]
    assert said.has("left out 0000.png", "has 1 frame, 2 are needed")
    shutil.rmtree(path / "walk")
    with pytest.raises(TecoError, match="no clip has two frames"):
        prepare([path], tmp_path / "cache")


@pytest.mark.parametrize("store", [StoreOptions(), LAZY, StoreOptions(decoded_limit=0, crops=1)])
def test_a_frame_of_another_size_is_named(tmp_path, folder, frames, store) -> None:
    path = folder("REDS/train_sharp/001", frames(9))
    cv2.imwrite(str(path / "0003.png"), np.zeros((70, 60, 3), np.uint8))
    expected = r"0003\.png is 60x70, expected 96x80 as 0000\.png"
    with pytest.raises(TecoError, match=expected):
        prepare([tmp_path / "REDS"], tmp_path / "cache", store=store)[0].frames[3]
    assert not list((tmp_path / "cache").glob("*.raw"))
    assert not list((tmp_path / "cache").glob(".*"))


def floating(path: Path) -> None:
    cv2.imwrite(str(path.with_suffix(".tiff")), np.zeros((80, 96, 3), np.float32))
    path.with_suffix(".tiff").rename(path)


@pytest.mark.parametrize("store", [StoreOptions(), LAZY])
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.write_bytes(b"not a picture"), "damaged or no picture"),
        (lambda path: (path.unlink(), path.mkdir()), "Is a directory"),
        (lambda path: (path.unlink(), path.symlink_to("nowhere")), "No such file"),
        (floating, "damaged or no picture"),
    ],
)
def test_an_unreadable_frame_is_named(tmp_path, folder, frames, store, spoil, says) -> None:
    path = folder("REDS/train_sharp/001", frames(9)) / "0003.png"
    spoil(path)
    with pytest.raises(TecoError, match=rf"0003\.png cannot be read: .*{says}"):
        prepare([tmp_path / "REDS"], tmp_path / "cache", store=store)[0].frames[3]


def test_grey_deep_and_transparent_pictures_are_rgb(tmp_path) -> None:
    rng = np.random.default_rng(0)
    for name, pixels in {
        "grey": rng.integers(0, 256, (8, 9), np.uint8),
        "deep": rng.integers(0, 65536, (8, 9, 3), np.uint16),
        "alpha": rng.integers(0, 256, (8, 9, 4), np.uint8),
    }.items():
        cv2.imwrite(str(tmp_path / f"{name}.png"), pixels)
        read = read_picture(tmp_path / f"{name}.png")
        assert (read.shape, read.dtype) == ((8, 9, 3), np.uint8)
        expected = (pixels >> 8 if pixels.dtype == np.uint16 else pixels).astype(np.int16)
        expected = expected[..., 2::-1] if pixels.ndim == 3 else expected[..., None]
        assert int(np.abs(read - expected).max()) <= 1


def test_an_unlisted_clip_option_and_an_odd_cache(tmp_path, folder, frames) -> None:
    folder("data/walk", frames(3))
    (tmp_path / "data" / "clips.toml").write_text("[clips.run]\nshrink = 1\n")
    with pytest.raises(TecoError, match="'run' is not in"):
        prepare([tmp_path / "data"], tmp_path / "cache")
    (tmp_path / "data" / "clips.toml").unlink()
    (tmp_path / "cache").touch()
    with pytest.raises(TecoError, match="cache cannot be made: File exists"):
        prepare([tmp_path / "data"], tmp_path / "cache")


def test_a_disk_too_small_is_said_before_decoding(
    tmp_path, folder, frames, said, monkeypatch
) -> None:
    folder("data/walk", frames(3))
    usage = type(shutil.disk_usage(tmp_path))(10**9, 10**9, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    with pytest.raises(TecoError, match=r"0\.0 GiB are free"):
        prepare([tmp_path / "data"], tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.raw"))


# --- the cache of decoded frames -------------------------------------------------------------


def test_the_frame_cache_keeps_to_its_bytes_and_drops_the_oldest() -> None:
    cache = FrameCache(limit=250)
    frames = {n: np.full((10, 10), n, np.uint8) for n in range(3)}
    for n in (0, 1):
        cache.put(n, frames[n])
    assert cache.get(0) is frames[0]  # 1 is now the one used least
    cache.put(2, frames[2])
    assert cache.get(1) is None
    assert cache.get(0) is frames[0]
    assert cache.get(2) is frames[2]
    assert (len(cache), cache.size) == (2, 200)
    cache.put(2, frames[1])
    assert cache.get(2) is frames[2]
    cache.put(3, np.zeros(251, np.uint8))  # too large for it
    assert (len(cache), cache.size) == (2, 200)


def test_a_frame_is_decoded_once_while_it_is_cached(folder, frames, monkeypatch) -> None:
    pixels = frames(3)
    files = tuple(sorted(folder("walk", pixels).iterdir()))
    read: list[Path] = []

    def counted(file: Path) -> np.ndarray:
        read.append(file)
        return read_picture(file)

    monkeypatch.setattr(frame_store, "read_picture", counted)
    monkeypatch.setattr(frame_store, "CACHE", FrameCache(limit=2 * pixels[0].nbytes))
    clip = ImageFrames(files, 80, 96)
    for i in (0, 1, 0, 1):
        clip[i, 3:5]
    assert len(read) == 2
    clip[2], clip[0]
    assert len(read) == 4
    assert frame_store.CACHE.size <= 2 * pixels[0].nbytes


def test_lazy_frames_can_be_sent_to_processes_that_are_not_forked(folder, frames) -> None:
    pixels = frames(4)
    clip = ImageFrames(tuple(sorted(folder("walk", pixels).iterdir())), 80, 96)
    clip[0]
    sent = pickle.dumps(clip[1:])
    assert len(sent) < 2000  # files, no pixels
    assert np.array_equal(pickle.loads(sent)[0], pixels[1])


# --- samples ---------------------------------------------------------------------------------


@pytest.fixture
def shots(frames) -> list[Shot]:
    return [shot_of("a", frames(8, seed=1)), shot_of("b", frames(8, seed=2, width=128))]


def same(a: sequences.Sample, b: sequences.Sample) -> bool:
    flows = torch.equal(a.flow.nan_to_num(-99), b.flow.nan_to_num(-99))
    lr = (a.lr is None) == (b.lr is None) and (a.lr is None or torch.equal(a.lr, b.lr))
    return flows and lr and torch.equal(a.hr, b.hr) and torch.equal(a.still, b.still)


def test_parts_make_together_what_one_process_makes(shots) -> None:
    fields = {
        "crop": 64, "frames": 3, "batch": 6, "seed": 4,
        "realworld": RealWorld(noise=3, jpeg=(40, 60)),
    }  # fmt: skip
    whole = SequenceDataset(shots, SampleOptions(**fields), 5)[3]
    for world in (1, 2, 3, 6):
        parts = [
            SequenceDataset(shots, SampleOptions(**fields, part=(rank, world)), 5)[3]
            for rank in range(world)
        ]
        assert all(len(p.hr) == 6 // world for p in parts)
        assert all(same(p, slice_batch(whole, r, world)) for r, p in enumerate(parts))
        assert torch.equal(torch.cat([p.hr for p in parts]), whole.hr)
    assert not torch.equal(whole.hr[0], whole.hr[1])


def test_a_part_reads_only_its_own_frames(shots) -> None:
    class Counting(np.ndarray):
        reads = 0

        def __getitem__(self, key):
            Counting.reads += 1
            return np.asarray(self)[key]

    counting = [Shot(s.name, np.asarray(s.frames).view(Counting), s.detail) for s in shots]
    fields = {"crop": 64, "frames": 3, "batch": 4, "with_flow": False, "still_share": 0.0}
    reads = []
    for part in ((0, 1), (0, 4)):
        Counting.reads = 0
        SequenceDataset(counting, SampleOptions(**fields, part=part), 1)[0]
        reads.append(Counting.reads)
    assert reads[0] == 4 * reads[1] > 0


def test_batches_that_cannot_be_divided(shots) -> None:
    options = SampleOptions(crop=64, frames=2, batch=6, part=(0, 4))
    with pytest.raises(TecoError, match="batch of 6 cannot be divided among 4") as error:
        SequenceDataset(shots, options, 1)
    assert "multiple of 4, such as 8" in error.value.hint
    sample = SequenceDataset(shots, SampleOptions(crop=64, frames=2, batch=2), 1)[0]
    with pytest.raises(TecoError, match="cannot be divided"):
        slice_batch(sample, 0, 3)
    for rank, world in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(TecoError, match="rank"):
            slice_batch(sample, rank, world)
    with pytest.raises(TecoError, match="seed is -1"):
        SequenceDataset(shots, SampleOptions(crop=64, seed=-1), 1)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_workers_make_the_same_batches_from_any_start(shots, workers) -> None:
    options = SampleOptions(crop=64, frames=2, batch=2, with_flow=False)
    dataset = SequenceDataset(shots, options, 6)
    for start in (0, 4, 6):
        made = list(batches(dataset, start, workers=workers))
        assert len(made) == 6 - start
        assert all(same(m, dataset[start + n]) for n, m in enumerate(made))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_frame_in_a_worker_is_one_sentence(tmp_path, folder, frames, workers) -> None:
    path = folder("REDS/train_sharp/001", frames(9))
    shots = prepare([tmp_path / "REDS"], tmp_path / "cache", store=LAZY)
    for n in range(1, 8):
        (path / f"{n:04d}.png").write_bytes(b"damaged since")
    dataset = SequenceDataset(shots, SampleOptions(crop=64, frames=4, batch=2), 50)
    with pytest.raises(TecoError, match=r"^the frame .*png cannot be read: [^\n]*$") as error:
        list(batches(dataset, workers=workers))
    assert "extract it again" in error.value.hint


def kill_and_go_on(pid: int, made) -> None:
    os.kill(pid, 9)
    for _ in made:
        pass


# torch raises from a signal handler, which may run while a weak reference is being dropped.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_killed_worker_is_one_sentence(shots) -> None:
    options = SampleOptions(crop=64, frames=2, batch=1, with_flow=False)
    made = batches(SequenceDataset(shots, options, 10_000), workers=1)
    others = multiprocessing.active_children()
    next(made)
    (worker,) = (p for p in multiprocessing.active_children() if p not in others)
    # torch tells of it wherever the program is at that moment, also in kill() itself.
    with pytest.raises(TecoError, match="a data process ended") as error:
        kill_and_go_on(worker.pid, made)
    assert "--workers" in error.value.hint


def test_a_process_that_fails_beside_its_workers_ends(tmp_path) -> None:
    """Workers ignore SIGTERM, with which multiprocessing would end them at exit."""
    program = tmp_path / "fails.py"
    program.write_text(
        "import numpy as np\n"
        "from teco.training.data.sequences import SampleOptions, SequenceDataset, batches\n"
        "from teco.training.data.sequences import shot_of\n"
        "shot = shot_of('a', np.zeros((3, 80, 80, 3), np.uint8))\n"
        "options = SampleOptions(crop=64, frames=2, batch=1, with_flow=False)\n"
        "made = batches(SequenceDataset([shot], options, 1000), workers=1)\n"
        "next(made)\n"
        "raise SystemExit(7)\n"
    )
    assert subprocess.run([sys.executable, program], timeout=60, check=False).returncode == 7


def test_workers_of_a_process_whose_opencv_has_threads(tmp_path) -> None:
    """They are forked without those threads, and must not wait for them."""
    program = tmp_path / "threads.py"
    program.write_text(
        "import cv2, numpy as np\n"
        "from teco.training.data.sequences import SampleOptions, SequenceDataset, batches\n"
        "from teco.training.data.sequences import shot_of\n"
        "cv2.setNumThreads(2)\n"
        "cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.uint8), (9, 9), 2)\n"
        "shot = shot_of('a', np.zeros((3, 80, 80, 3), np.uint8))\n"
        "options = SampleOptions(crop=64, frames=2, batch=1, with_flow=False)\n"
        "print(len(list(batches(SequenceDataset([shot], options, 2), workers=1))))\n"
    )
    # In a session of its own: a worker that hangs outlives the process that is killed here.
    child = subprocess.Popen(
        [sys.executable, program], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert child.communicate(timeout=60)[0] == "2\n"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


def test_clips_without_any_detail_can_be_drawn() -> None:
    black = shot_of("black", np.zeros((3, 80, 80, 3), np.uint8))
    assert black.detail == 0
    sample = SequenceDataset([black, black], SampleOptions(crop=64, frames=2, batch=2), 1)[0]
    assert not sample.hr.any()


def test_notices_name_what_does_not_quite_fit(shots, frames) -> None:
    options = SampleOptions(crop=64, frames=5)
    assert notices(shots, options) == []
    odd = [*shots, shot_of("short", frames(3)), shot_of("small", frames(9, width=60))]
    small, short = notices(odd, options)
    assert small.startswith("1 of 4 shots are left out")
    assert "72 pixels" in small
    assert small.endswith("(small)")
    assert "shorter than the 5 frames" in short
    assert short.endswith("(short)")


def test_a_set_that_stays_in_its_files_gives_the_samples_of_a_decoded_one(
    tmp_path, folder, frames
) -> None:
    """Where the pixels are kept changes none of them."""
    for n in (1, 2):
        folder(f"REDS/train_sharp/{n:03d}", frames(7, seed=n))
    kept, lazy = (
        prepare([tmp_path / "REDS"], tmp_path / "cache", store=store)
        for store in (StoreOptions(), LAZY)
    )
    assert [s.name for s in kept] == [s.name for s in lazy]
    lazy = [Shot(b.name, b.frames, a.detail) for a, b in zip(kept, lazy, strict=True)]
    options = SampleOptions(crop=64, frames=4, batch=4)
    a, b = (SequenceDataset(x, options, 3) for x in (kept, lazy))
    assert all(same(a[n], b[n]) for n in range(3))


def test_the_cache_holds_records_that_can_be_read(tmp_path, folder, frames) -> None:
    folder("data/walk", frames(3))
    prepare([tmp_path / "data"], tmp_path / "cache")
    (record,) = (
        json.loads(f.read_text())
        for f in (tmp_path / "cache").glob("*.json")
        if not f.name.endswith("size.json")
    )
    assert record == {"shape": [3, 80, 96, 3], "cuts": [], "source": "data/walk", "shrink": 1.0}
