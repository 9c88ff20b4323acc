"""Which shared libraries a shared library was linked against, read from the file itself.

"This onnxruntime-gpu wants libnvinfer.so.10, you have 11" can be said without loading anything:
loading ends in one of the dynamic linker's messages, or in another provider without a word.

Only what is needed of an ELF file (System V ABI, chapters 4 and 5; elf(5)) is read: 64 bits, either
byte order; program headers tell where the dynamic section lies and how addresses become offsets.
"""

from __future__ import annotations

import importlib.util
import re
import struct
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_NULL, _DT_NEEDED, _DT_STRTAB, _DT_STRSZ = 0, 1, 5, 10

PROVIDER = "libonnxruntime_providers_tensorrt.so"
_NVINFER = re.compile(r"libnvinfer\.so\.(\d+)")


def wanted_libraries(path: Path) -> tuple[str, ...]:
    """The names (DT_NEEDED) a shared library asks the dynamic linker for, in its order.

    Args:
        path: of a 64-bit ELF file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such file, or damaged.
    """
    data = path.read_bytes()
    if data[:5] != b"\x7fELF\x02" or data[5:6] not in (b"\x01", b"\x02"):
        raise ValueError(f"{path} is no 64-bit ELF file")
    order = "<" if data[5] == 1 else ">"
    try:
        return _needed(data, order)
    except (struct.error, IndexError, StopIteration) as error:
        raise ValueError(f"{path} is a damaged ELF file") from error


def _needed(data: bytes, order: str) -> tuple[str, ...]:
    """As :func:`wanted_libraries`; struct.error and the like where the file contradicts itself."""
    (offset,) = struct.unpack_from(f"{order}Q", data, 32)  # e_phoff
    size, count = struct.unpack_from(f"{order}2H", data, 54)  # e_phentsize, e_phnum
    # p_type, p_flags, p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align
    headers = [struct.unpack_from(f"{order}2L6Q", data, offset + n * size) for n in range(count)]
    segments = [(h[3], h[2], h[5]) for h in headers if h[0] == _PT_LOAD]
    dynamic = [h for h in headers if h[0] == _PT_DYNAMIC]
    if not dynamic:
        return ()  # linked statically
    start, length = dynamic[0][2], dynamic[0][5]
    entries: list[tuple[int, int]] = []
    for at in range(start, start + length, 16):
        tag, value = struct.unpack_from(f"{order}2Q", data, at)
        if tag == _DT_NULL:
            break
        entries.append((tag, value))
    table = next(value for tag, value in entries if tag == _DT_STRTAB)
    room = next(value for tag, value in entries if tag == _DT_STRSZ)
    base = next(o + table - v for v, o, n in segments if v <= table < v + n)
    strings = data[base : base + room]
    names: list[str] = []
    for tag, value in entries:
        if tag == _DT_NEEDED:
            names.append(strings[value : strings.index(b"\0", value)].decode())
    return tuple(names)


def installed_nvinfer() -> tuple[int, ...]:
    """Major versions of libnvinfer that the dynamic linker or a Python package has, sorted.

    NVIDIA's wheels put it in ``tensorrt_libs``, where it is found once ``tensorrt`` is imported.
    """
    found: set[int] = set()
    for folder in _wheel_folders(("tensorrt_libs",)):
        for file in folder.glob("libnvinfer.so.*"):
            found |= {int(x) for x in _NVINFER.findall(file.name)}
    found |= {int(x) for x in _NVINFER.findall(_linker_cache())}
    return tuple(sorted(found))


def provider_path() -> Path | None:
    """ONNX Runtime's TensorRT provider, None where the installed ONNX Runtime has none."""
    for folder in _wheel_folders(("onnxruntime",)):
        path = folder / "capi" / PROVIDER
        if path.is_file():
            return path
    return None


def why_tensorrt_provider_cannot_load() -> str | None:
    """None where ONNX Runtime's TensorRT provider finds the libnvinfer it was linked against, or is
    not there at all; else one sentence."""
    path = provider_path()
    if path is None or not sys.platform.startswith("linux"):
        return None
    try:
        wanted = wanted_libraries(path)
    except (OSError, ValueError) as error:
        return f"{PROVIDER} of this ONNX Runtime cannot be read: {error}"
    name = next((x for x in wanted if _NVINFER.fullmatch(x)), None)
    if name is None:
        return None
    major, here = int(name.rpartition(".")[2]), installed_nvinfer()
    if major in here:
        return None
    has = f"you have {' and '.join(map(str, here))}" if here else "you have none"
    return f"this onnxruntime-gpu wants {name}, {has}: pip install 'tensorrt>={major},<{major + 1}'"


def _wheel_folders(packages: Iterable[str]) -> list[Path]:
    """Folders of installed packages; nothing is imported."""
    folders: list[Path] = []
    for package in packages:
        try:
            spec = importlib.util.find_spec(package)
        except (ImportError, ValueError):
            continue
        if spec is not None:
            folders += [Path(p) for p in spec.submodule_search_locations or ()]
    return folders


def _linker_cache() -> str:
    """What ``ldconfig -p`` prints; empty where it cannot be asked."""
    for program in ("/sbin/ldconfig", "/usr/sbin/ldconfig"):
        try:
            done = subprocess.run(
                [program, "-p"], capture_output=True, text=True, timeout=10, check=True
            )
        except (OSError, subprocess.SubprocessError):
            continue
        return done.stdout
    return ""
