"""Forms of a network in float16 whose gate passed, kept for ``--runtime auto`` on a GPU.

``teco export`` keeps what it makes on a machine with an NVIDIA GPU, in teco's cache folder and by
the hash of the weights, so that a model is found whatever it was called. Nothing is looked for
beside clips or models: what lies there may be anybody's.
"""

from __future__ import annotations

import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path

from teco.core.errors import TecoError
from teco.core.files import writing
from teco.model.manifest import SHA256, manifest_path
from teco.model.opening import ENGINE_SUFFIX, Model, open_model
from teco_calibration.cache import cache_dir

_SUFFIXES = ".onnx", ENGINE_SUFFIX


def keep(path: Path) -> bool:
    """Keep a finished file and its manifest where it is float16 and its gate passed.

    Args:
        path: an ONNX file or an engine, its manifest beside it.

    Returns:
        Whether it was kept. A cache that cannot be written is no failure.
    """
    model = open_model(str(path))
    if not _passed(model):
        return False
    assert model.manifest is not None
    folder = _folder(model.manifest.weights_sha256)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # The manifest last: beside another's the file is not found, and an engine not without
        # one; an ONNX file has its own inside.
        for source in (path, manifest_path(path)):
            with writing(folder / source.name) as part:
                # A copy: what others may write is not found, and the original is its user's.
                shutil.copyfile(source, part)
                part.chmod(0o600)
    except OSError:
        return False
    return True


def kept(model: Model, size: tuple[int, int] | None = None) -> list[Model]:
    """What was kept of a model's weights and takes the same frames, by name.

    Args:
        model: in float32, with a manifest; of others nothing is found.
        size: LR (h, w) of the frames; None for one that is not known, which files of one size and
            engines are then not found for.
    """
    manifest = model.manifest
    if manifest is None or manifest.precision_asked != "fp32" or manifest.contract.planes:
        return []
    found: list[Model] = []
    folder = _folder(manifest.weights_sha256)
    for path in sorted(p for p in _files(folder) if p.suffix in _SUFFIXES):
        with suppress(OSError, TecoError):  # half there, or of another teco
            form = open_model(str(path))
            same = form.manifest is not None and (
                form.manifest.weights_sha256 == manifest.weights_sha256
            )
            if same and _passed(form) and takes(form, size):
                found.append(form)
    return found


def _folder(weights_sha256: str) -> Path:
    if not SHA256.fullmatch(weights_sha256):  # Manifest.check saw to it
        raise ValueError(f"{weights_sha256!r} is no hash")
    return cache_dir() / "forms" / weights_sha256[:32]


def _files(folder: Path) -> list[Path]:
    """Those that are this user's, their manifests too, and that nobody else may write."""
    with suppress(OSError):
        files = {p for p in folder.iterdir() if p.name[0] != "." and _is_own(p)}
        return [p for p in files if (m := manifest_path(p)) in files or not os.path.lexists(m)]
    return []


def _is_own(path: Path) -> bool:
    try:
        found = path.lstat()
    except OSError:  # gone in the meantime
        return False
    if not hasattr(os, "geteuid"):  # Windows, whose modes say nothing of others
        return stat.S_ISREG(found.st_mode)
    others = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and not others


def _passed(model: Model) -> bool:
    """A manifest with a verdict that refuses is not read at all."""
    manifest = model.manifest
    return (
        manifest is not None
        and manifest.precision_asked == "fp16"
        and manifest.gate is not None
        and manifest.contract.planes is None
    )


def takes(model: Model, size: tuple[int, int] | None) -> bool:
    """Whether a model takes frames of LR (h, w); None for a size that is not known."""
    if model.engine_manifest is not None:
        least, greatest = model.engine_manifest.limits
        return size is not None and all(
            low <= side <= high for low, side, high in zip(least, size, greatest, strict=True)
        )
    return model.static_size in (None, size)
