"""What the first bytes of a file tell about an engine, without a runtime, a driver or a GPU.

TensorRT's plans begin with ``ftrt``, TensorRT-RTX's with ``vtrt``. NVIDIA documents neither layout.
The one of TensorRT-RTX was found by building engines with 1.6.1.120 and 1.7.1.116 for single
compute capabilities and comparing (little-endian):

====== ===== ==================================================================
offset bytes meaning
====== ===== ==================================================================
0      4     ``vtrt``
8      4     2, taken as the layout's version
16     8     length of the file
24     4     release, one byte each: 1, 7, 1, 116
28     4     ``vtrt`` again
32     8     compute capabilities: bit 0 SM75, then SM80, 86, 89, 120, 121; bit 6
             is set when none were chosen and later ones are allowed
====== ===== ==================================================================

Of a TensorRT plan nothing beyond its first four bytes is claimed here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

RTX_CAPABILITIES = (75, 80, 86, 89, 120, 121)
"""What TensorRT-RTX 1.7.1 builds for, in the order of the header's bits."""

LENGTH = 40
_LATER = 1 << 6


@dataclass(frozen=True)
class Header:
    """What a plan says of itself.

    Attributes:
        target: "rtx" or "tensorrt".
        version: release that built it; None where the layout is not known.
        compute_capabilities: what it was built for; None where the layout is not known.
        length: bytes the whole file should have; None where the layout is not known.
    """

    target: str
    version: str | None = None
    compute_capabilities: tuple[int, ...] | None = None
    length: int | None = None


def parse(head: bytes) -> Header | None:
    """The header of a plan from its first :data:`LENGTH` bytes; None when it is no plan."""
    if head[:4] == b"ftrt":
        return Header("tensorrt")
    if head[:4] != b"vtrt":
        return None
    known = len(head) >= LENGTH and head[28:32] == b"vtrt" and int.from_bytes(head[8:12], "little")
    if known != 2:
        return Header("rtx")
    mask = int.from_bytes(head[32:40], "little")
    if mask >> len(RTX_CAPABILITIES) + 1:
        return Header("rtx")  # a bit that no known release sets
    return Header(
        "rtx",
        ".".join(str(x) for x in head[24:28]),
        tuple(sm for n, sm in enumerate(RTX_CAPABILITIES) if mask >> n & 1),
        int.from_bytes(head[16:24], "little"),
    )


def read(path: Path) -> Header | None:
    """:func:`parse` of a file."""
    with path.open("rb") as file:
        return parse(file.read(LENGTH))


def describe(path: Path) -> str:
    """What a file is by its first bytes, to continue "FILE is ..." with.

    Raises:
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(4096)
    if not head:
        return "an empty file"
    if (header := parse(head)) is not None:
        if header.version is None or header.compute_capabilities is None:
            product = "TensorRT-RTX" if header.target == "rtx" else "TensorRT"
            return (
                f"a {product} engine by its first four bytes, of which the rest is not documented"
            )
        text = (
            f"an engine of TensorRT-RTX {header.version} for "
            f"SM {', '.join(map(str, header.compute_capabilities)) or '(none)'} by its header"
        )
        if header.length != size:
            text += f", {size} bytes long where it should have {header.length}"
        return text
    if head[4:5] == b"{" and b"}ftrt" in head:
        return "a TensorRT engine with a foreign description before it, as Ultralytics writes"
    if head[:1] == b"\x08" and head[2:3] in (b"\x12", b"\x1a", b"\x22"):
        return "an ONNX file, not an engine"  # ModelProto begins with ir_version, then a string
    if head[:2] == b"PK":
        return "a zip archive such as PyTorch's, not an engine"
    if head[8:9] == b"{":
        return "a safetensors file, not an engine"
    if head.lstrip()[:1] == b"{":
        return "a JSON file, not an engine"
    return f"no engine: it begins with {head[:4].hex(' ')}"
