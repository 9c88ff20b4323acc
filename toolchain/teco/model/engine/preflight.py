"""Does an engine fit this machine? Asked before any runtime sees it.

TensorRT has no such check of its own, and a wrong or damaged plan can end the interpreter; so the
manifest beside the plan, the plan's hash and its header are compared with what is here, cheapest
first, and the first contradiction is an error with its cause and the command that rebuilds the
engine. Beside that, TensorRT-RTX can judge a header itself
(:func:`teco.model.engine.validity.check_validity` knows drivers and memory), which needs a GPU.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from teco.core import gpu
from teco.core.errors import MACHINE, USAGE, TecoError
from teco.core.files import sha256_of
from teco.core.gpu import Gpu
from teco.model.engine import header
from teco.model.engine.api import PRODUCTS, TARGETS, installed_version, load
from teco.model.engine.manifest import EngineManifest
from teco.model.manifest import manifest_path

_SAME_ARCH = {"AMD64": "x86_64", "arm64": "aarch64", "ARM64": "aarch64"}

_RTX_SYSTEMS = ("Linux", "Windows")
"""An RTX engine built for named capabilities runs on both (NVIDIA's page on CPU-only AOT)."""


@dataclass(frozen=True)
class Host:
    """What of a machine matters to engines.

    Attributes:
        gpus: in the driver's order.
        os: as ``platform.system()`` says.
        arch: as ``platform.machine()`` says.
        versions: target ("rtx", "tensorrt") -> version of its bindings; absent ones are left out.
    """

    gpus: tuple[Gpu, ...]
    os: str
    arch: str
    versions: Mapping[str, str] = field(default_factory=dict)


def look(targets: Iterable[str] = tuple(TARGETS)) -> Host:
    """This machine. Never fails; bindings that cannot be loaded count as absent.

    Args:
        targets: whose bindings to ask for their version; each is imported.
    """
    versions = {t: v for t in targets if (v := installed_version(t))}
    gpus = tuple(g for g in gpu.find() if g.compute_capability)
    return Host(gpus, platform.system(), platform.machine(), versions)


def check(
    path: Path, machine: Host | None = None, *, size: tuple[int, int] | None = None
) -> EngineManifest:
    """Check an engine against its manifest and this machine.

    Args:
        path: the plan; its manifest lies beside it.
        machine: to check against; None for this one.
        size: (h, w) of the LR frames it is to be given, where known.

    Returns:
        The manifest; the plan may now be given to its runtime.

    Raises:
        TecoError: exit code 1 where the files contradict each other, 2 where they are not what was
            asked for, 3 where they are right and this machine is another. The message names the
            cause, the hint the command that rebuilds the engine.
    """
    manifest = read(path)
    check_size(manifest, path.name, size)
    machine = machine or look((manifest.target,))
    for doubt in (_runtime, _system, _gpu):
        doubt(manifest, path, machine)
    return manifest


def read(path: Path) -> EngineManifest:
    """The manifest of an engine, after both files have been checked against each other.

    Needs no GPU and no runtime: this is what ``teco info`` and ``teco verify`` can say anywhere.

    Raises:
        TecoError: there is no such file, no manifest beside it, or the two contradict each other.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise TecoError(
            f"{path} {what}, expected an engine", hint="check the path", exit_code=USAGE
        )
    beside = manifest_path(path)
    try:
        head = header.read(path)
        if not beside.exists():
            raise _bare(path, head)
        text = beside.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TecoError(
            f"{path} or its manifest {beside.name} cannot be read: {reason}",
            hint="build it again with `teco export`",
        ) from error
    manifest = EngineManifest.from_json(text, source=str(beside))
    _same_file(manifest, path, head)
    if head is not None:
        _same_facts(manifest, path, head)
    return manifest


def check_size(manifest: EngineManifest, name: str, size: tuple[int, int] | None) -> None:
    """Raise TecoError where an engine was not built for LR frames of (h, w); None is no question.

    Raises:
        TecoError: with exit code 2.
    """
    if size is None:
        return
    low, high = manifest.limits
    if all(a <= x <= b for a, x, b in zip(low, size, high, strict=True)):
        return
    h, w = size
    built = (
        f"{manifest.size} frames"
        if manifest.size != "dynamic"
        else f"frames from {manifest.profile[0]} to {manifest.profile[2]}"
    )
    command = manifest.rebuild.replace(f"--size {manifest.size}", f"--size {h}x{w}")
    raise TecoError(
        f"{name} was built for {built} (height x width), these are {h}x{w}",
        hint=f"build one for this size: `{command}`",
        exit_code=USAGE,
    )


def _bare(path: Path, head: header.Header | None) -> TecoError:
    """The error about a file without a manifest: what its first bytes tell, and no more."""
    what = header.describe(path)
    if head is None:
        return TecoError(
            f"{path} is {what}", hint="give an engine that `teco export` built", exit_code=USAGE
        )
    return TecoError(
        f"{path} has no manifest beside it ({path.stem}.json), so nothing says what its inputs, "
        f"sizes and precision are; it is {what}",
        hint=f"put the manifest back, or build it again: `teco export --formats {head.target}`",
    )


def _same_file(manifest: EngineManifest, path: Path, head: header.Header | None) -> None:
    """The file is the one the manifest describes, byte for byte."""
    beside, size = manifest_path(path), path.stat().st_size
    if head is None:
        raise TecoError(
            f"{path} is not the engine that {beside.name} describes: it is {header.describe(path)}",
            hint=f"build it again: `{manifest.rebuild}`",
        )
    if head.target != manifest.target:
        raise TecoError(
            f"{path} is an engine of {PRODUCTS[head.target]}, {beside.name} describes one of "
            f"{manifest.product}",
            hint=f"build it again: `{manifest.rebuild}`",
        )
    if size < manifest.length:
        raise TecoError(
            f"{path} is cut off: {size} bytes of {manifest.length}",
            hint=f"copy it again, or build it again: `{manifest.rebuild}`",
        )
    found = sha256_of(path)
    if found != manifest.sha256:
        raise TecoError(
            f"{path} is not the engine that {beside.name} describes: its sha256 is "
            f"{found[:12]}..., the manifest says {manifest.sha256[:12]}...",
            hint=f"build it again: `{manifest.rebuild}`",
        )
    if size != manifest.length:
        raise TecoError(
            f"{beside} says {manifest.length} bytes, {path.name} has {size}",
            hint=f"build it again: `{manifest.rebuild}`",
        )


def _same_facts(manifest: EngineManifest, path: Path, head: header.Header) -> None:
    """The manifest says what the plan's own header says, where that can be read."""
    beside = manifest_path(path)
    if head.compute_capabilities not in (None, manifest.compute_capabilities):
        raise TecoError(
            f"{beside} says SM {_list(manifest.compute_capabilities)}, the engine's own header "
            f"SM {_list(head.compute_capabilities or ())}",
            hint="build it again with `teco export --formats rtx --sm LIST`",
        )
    if head.version not in (None, manifest.runtime_version):
        raise TecoError(
            f"{beside} says {manifest.product} {manifest.runtime_version}, the engine's own header "
            f"{head.version}",
            hint=f"build it again: `{manifest.rebuild}`",
        )


def _runtime(manifest: EngineManifest, path: Path, machine: Host) -> None:
    installed, built = machine.versions.get(manifest.target), manifest.runtime_version
    if installed is None:
        # The loader knows whether it is absent or broken, and says so.
        load(manifest.target, f"running {path}")
        raise TecoError(
            f"running {path} needs {manifest.product}, which is not installed",
            hint=f"pip install 'teco[{manifest.target}]'",
            exit_code=MACHINE,
        )
    if _numbers(installed) == _numbers(built):
        return
    if manifest.version_compatible and _numbers(installed) > _numbers(built):
        return
    late = " or later" if manifest.version_compatible else ""
    raise TecoError(
        f"{path} was built with {manifest.product} {built} and runs on that version{late}, "
        f"{installed} is installed",
        hint=f"build it again: `{manifest.rebuild}`",
        exit_code=MACHINE,
    )


def _system(manifest: EngineManifest, path: Path, machine: Host) -> None:
    arch = _SAME_ARCH.get(machine.arch, machine.arch)
    built = _SAME_ARCH.get(manifest.arch, manifest.arch)
    systems = _RTX_SYSTEMS if manifest.target == "rtx" else (manifest.os,)
    if machine.os in systems and arch == built:
        return
    raise TecoError(
        f"{path} was built on {manifest.os} {built} and {manifest.product} runs it on "
        f"{' or '.join(systems)} {built} only, this is {machine.os} {arch}",
        hint=f"build it again here: `{manifest.rebuild}`",
        exit_code=MACHINE,
    )


def _gpu(manifest: EngineManifest, path: Path, machine: Host) -> None:
    """One GPU that fits is enough: which one CUDA calls its first, only CUDA can say."""
    if not machine.gpus:
        raise TecoError(
            f"running {path} needs an NVIDIA GPU and driver; nvidia-smi finds none",
            hint="the ONNX file runs on the CPU: `teco upscale --model FILE.onnx`",
            exit_code=MACHINE,
        )
    if any(_fits(manifest, gpu.compute_capability) for gpu in machine.gpus):
        return
    built = f"SM {_list(manifest.compute_capabilities)}"
    if manifest.hardware == "ampere-plus":
        built = "SM 80 and above"
    here = sorted({gpu.compute_capability for gpu in machine.gpus})
    command = manifest.rebuild
    if manifest.target == "rtx":
        sms = sorted({*manifest.compute_capabilities, *here})
        command = command.replace(
            f"--sm {','.join(map(str, manifest.compute_capabilities))}",
            f"--sm {','.join(map(str, sms))}",
        )
    raise TecoError(
        f"{path} was built for {built}, this machine has {', '.join(map(str, machine.gpus))}",
        hint=f"build it again: `{command}`",
        exit_code=MACHINE,
    )


def _fits(manifest: EngineManifest, capability: int) -> bool:
    if manifest.hardware == "ampere-plus":
        return capability >= 80
    return capability in manifest.compute_capabilities


def _numbers(version: str) -> tuple[int, ...]:
    """Four numbers, as TensorRT compares them; ".post1" is the wheel's, not the library's."""
    parts = [int(x) for x in version.split(".") if x.isdecimal()]
    return tuple((*parts, 0, 0, 0, 0)[:4])


def _list(values: tuple[int, ...]) -> str:
    return ", ".join(map(str, values)) or "(none)"
