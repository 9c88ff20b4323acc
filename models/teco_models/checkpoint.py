"""Weights files: read as data, never unpickled freely; the variant is inferred from the shapes.

Formats read: safetensors (ours), and the state dicts that TecoGAN-PyTorch and EGVSR publish
(``.pth``: a bare dict, or one under ``"state_dict"``/``"params"``/``"model"``).
"""

from __future__ import annotations

import math
import os
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from teco_models.arch.backprojection import phase_blur
from teco_models.arch.computed_alignment import AlignedGenerator
from teco_models.arch.discriminator import Discriminator
from teco_models.arch.generator import Generator
from teco_models.arch.ops import CUBIC_KERNELS
from teco_models.errors import ModelError
from teco_models.variant import SCALE, SCALES, Tail, Variant

_FIRST = "srnet.conv_in.0.weight"
_BLOCK = re.compile(r"srnet\.resblocks\.(\d+)\.conv\.0\.weight")
_KERNELS = ("upsample_func.kernels", "srnet.upsample_func.kernels")
_NORM = "fnet.norm.eps"
_BACK = "srnet.back.spread"
_REFINE = "refine.eps"
_ALIGNED = frozenset({"base", "spread", "head.weight", "tail.weight"})
_BLUR = "blur"
_ALIGNED_BLOCK = re.compile(r"body\.(\d+)\.first\.weight")


@dataclass(frozen=True)
class Weights:
    """A generator's weights and what they are.

    Attributes:
        variant: inferred from the tensors.
        tensors: float32, exactly the keys of ``generator_of(variant).state_dict()``.
        notes: what was left unused or assumed, one sentence each.
        metadata: the text fields of a safetensors header, empty for other files.
    """

    variant: Variant
    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()
    metadata: Mapping[str, str] | None = None


def load_weights(path: str | Path) -> Weights:
    """Read a weights file.

    Raises:
        ModelError: missing, unreadable, holding anything but tensors, or not a generator of this
            family; missing, extra and oddly shaped tensors are named.
    """
    path = Path(path)
    if not path.exists():
        raise ModelError(f"no weights file at {path}", hint="check the path", exit_code=2)
    if path.is_dir():
        raise ModelError(
            f"{path} is a folder, expected a weights file (.safetensors or .pth)", exit_code=2
        )
    metadata: dict[str, str] = {}
    if _looks_like_safetensors(path):
        tensors, metadata = _read_safetensors(path)
    else:
        tensors = _read_pickle(path)
    return infer(tensors, source=str(path), metadata=metadata)


def infer(
    tensors: Mapping[str, Tensor], *, source: str, metadata: Mapping[str, str] | None = None
) -> Weights:
    """Decide the variant from names and shapes and check every tensor against it.

    Args:
        tensors: a state dict in the published key layout.
        source: how to call it in messages.
        metadata: passed through.
    """
    tensors = dict(tensors)
    if tensors.keys() >= _ALIGNED:
        variant = _aligned_variant(tensors, source)
        expected = _expected(variant)
        _check_fit(tensors, expected, variant, source)
        kept = _finite(tensors, expected, source)
        if _BLUR in kept:
            if not torch.allclose(kept[_BLUR], phase_blur()[None], atol=1e-3):
                raise ModelError(
                    f"{source} holds another blur than BD's",
                    hint="such weights were trained for another degradation and would give wrong "
                    "pictures",
                )
            kept[_BLUR] = phase_blur()[None]  # may have been stored in half precision
        return Weights(variant, kept, (), dict(metadata or {}))
    scale = _scale_of(tensors)
    if scale not in (None, SCALE):
        raise ModelError(
            f"{source} is of scale x{scale}, expected x{SCALE}: its first convolution reads "
            f"{tensors[_FIRST].shape[1]} channels, {3 * scale * scale} of them for a past picture "
            f"{scale} times as high and wide as the frame",
            hint=f"give weights that were trained for x{SCALE}",
        )
    has_flow = not _without_flow(tensors)
    for key in (_FIRST, "fnet.encoder1.0.weight")[: 1 + has_flow]:
        if key not in tensors:
            raise ModelError(
                f"{source} is no TecoGAN generator: it has no tensor {key} "
                f"(it has {len(tensors)}, {_some(tensors)})",
                hint="expected the key layout of TecoGAN-PyTorch: fnet.*, srnet.*",
            )
        shape = list(tensors[key].shape)
        if len(shape) != 4 or not all(shape):
            raise ModelError(
                f"{source} holds {key} of shape {shape}, expected four sizes above zero",
                hint="the file is damaged or belongs to another network",
            )
    blocks = sorted(int(m[1]) for key in tensors if (m := _BLOCK.fullmatch(key)))
    if blocks != list(range(len(blocks))) or not blocks:
        raise ModelError(f"{source} has residual blocks {blocks}, expected 0, 1, 2, ... unbroken")
    notes: list[str] = []
    tail = _tail_of(tensors, source)
    if tail == "egvsr":
        bd = True
        notes.append("EGVSR weights do not say their degradation; taken as BD, as published")
    else:
        bd = any(key in tensors for key in _KERNELS)
    variant = Variant(
        blocks=len(blocks),
        channels=tensors[_FIRST].shape[0],
        flow_channels=tensors["fnet.encoder1.0.weight"].shape[0] if has_flow else 0,
        tail=tail,
        degradation="bd" if bd else "bi",
        flow_norm="pair" if _NORM in tensors or not has_flow else "raw",
        back_projection=_BACK in tensors,
        lucas_kanade=_REFINE in tensors,
    )
    expected = _expected(variant)
    for key in _KERNELS:
        # Constants, not weights: some files store them, some leave them out.
        if key in expected and key not in tensors:
            tensors[key] = torch.tensor(CUBIC_KERNELS)
        elif (
            key in expected
            and tensors[key].shape == expected[key].shape
            and not torch.allclose(tensors[key].float(), torch.tensor(CUBIC_KERNELS), atol=1e-3)
        ):
            raise ModelError(
                f"{source} holds upsampling kernels other than the cubic ones of BD models",
                hint="such weights were trained for another residual and would give wrong pictures",
            )
    if tail == "egvsr":
        stale = sorted(
            key
            for key in tensors
            if key not in expected and key.startswith(("srnet.conv_up.", "srnet.upsample", "up"))
        )
        if stale:
            notes.append(f"left unused, as EGVSR itself does: {', '.join(stale)}")
        tensors = {key: value for key, value in tensors.items() if key not in stale}
    _check_fit(tensors, expected, variant, source)
    return Weights(variant, _finite(tensors, expected, source), tuple(notes), dict(metadata or {}))


def _expected(variant: Variant) -> dict[str, Tensor]:
    """The state dict of a variant by shapes alone."""
    # On the meta device, where shapes cost nothing: a damaged file may claim any size.
    with torch.device("meta"):
        return generator_of(variant).state_dict()


def _check_fit(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], variant: Variant, source: str
) -> None:
    """Raise ModelError where tensors are missing, extra or of other shapes than expected."""
    unused = sorted(key for key in tensors if key not in expected)
    missing = sorted(key for key in expected if key not in tensors)
    odd = [
        f"{key} is {list(tensors[key].shape)}, expected {list(value.shape)}"
        for key, value in expected.items()
        if key in tensors and tensors[key].shape != value.shape
    ]
    if missing or unused or odd:
        said = [
            f"missing: {', '.join(missing)}" if missing else "",
            f"not expected: {', '.join(unused)}" if unused else "",
            "; ".join(odd),
        ]
        raise ModelError(
            f"{source} does not fit {variant.name}: {'; '.join(x for x in said if x)}",
            hint="the file is damaged or belongs to another network",
        )


def _finite(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str
) -> dict[str, Tensor]:
    """The expected tensors in float32.

    Raises:
        ModelError: one holds NaN or infinite values.
    """
    kept = {key: tensors[key].detach().to("cpu", torch.float32) for key in expected}
    for key, value in kept.items():
        if not torch.isfinite(value).all():
            raise ModelError(f"{source} holds NaN or infinite values in {key}")
    return kept


def _aligned_variant(tensors: Mapping[str, Tensor], source: str) -> Variant:
    """The variant of weights of :class:`AlignedGenerator`, from names and shapes."""
    for key in (*sorted(_ALIGNED), "down.weight"):
        shape = list(tensors[key].shape) if key in tensors else [1, 1, 1, 1]
        if len(shape) != 4 or not all(shape):
            raise ModelError(
                f"{source} holds {key} of shape {shape}, expected four sizes above zero",
                hint="the file is damaged or belongs to another network",
            )
    blocks = sorted(int(m[1]) for key in tensors if (m := _ALIGNED_BLOCK.fullmatch(key)))
    if blocks != list(range(len(blocks))) or not blocks:
        raise ModelError(f"{source} has residual blocks {blocks}, expected 0, 1, 2, ... unbroken")
    channels, inputs = tensors["head.weight"].shape[:2]
    phases = tensors["base"].shape[0]
    scale = math.isqrt(phases)
    if scale not in SCALES or scale**2 != phases:
        raise ModelError(
            f"{source} makes {phases} pixels of one, expected "
            + " or ".join(f"{s * s} (x{s})" for s in SCALES),
            hint="the file is damaged or belongs to another network",
        )
    # The head reads luma, its misfit, the past's phases and the features; the tail answers the
    # phases, the mask and the features.
    latent = inputs - 2 - phases
    return Variant.aligned(
        degradation="bd" if _BLUR in tensors else "real",
        blocks=len(blocks),
        channels=channels,
        latent=latent,
        masks=tensors["tail.weight"].shape[0] - phases - latent,
        half_channels=tensors["down.weight"].shape[0] if "down.weight" in tensors else 0,
        scale=scale,
    )


AnyGenerator = Generator | AlignedGenerator


def generator_of(variant: Variant) -> AnyGenerator:
    """A generator of that variant, as it is initialised."""
    return AlignedGenerator(variant) if variant.computed_alignment else Generator(variant)


def build_any(weights: Weights) -> AnyGenerator:
    """A generator in eval mode with these weights, of either kind."""
    generator = generator_of(weights.variant)
    generator.load_state_dict(weights.tensors)
    return generator.eval()


def build(weights: Weights) -> Generator:
    """A generator with FNet or none in eval mode with these weights, for what needs its parts.

    Raises:
        ModelError: the weights' alignment is computed (:func:`build_any` takes those too).
    """
    if weights.variant.computed_alignment:
        raise ModelError(
            f"{weights.variant.name} computes its alignment, and this is for networks that "
            "learn it or have none",
            hint="give weights whose name ends in neither -real nor -bd",
        )
    generator = Generator(weights.variant)
    generator.load_state_dict(weights.tensors)
    return generator.eval()


def save_weights(
    path: str | Path,
    generator: AnyGenerator,
    *,
    metadata: Mapping[str, str] | None = None,
    half: bool = False,
) -> None:
    """Write safetensors beside the final name and rename.

    Args:
        path: the final name, ``.safetensors``.
        generator: whose weights.
        metadata: text fields for the header; the variant's name is added.
        half: store float16 (half the size; loading gives float32 again).
    """
    dtype = torch.float16 if half else torch.float32
    # clone(), because safetensors refuses tensors that share memory, as those of tied blocks do.
    tensors = {
        k: v.detach().cpu().to(dtype).contiguous().clone()
        for k, v in generator.state_dict().items()
    }
    write_tensors(path, tensors, {**(metadata or {}), "variant": generator.variant.name})


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write safetensors beside the final name and rename.

    Args:
        path: the final name.
        tensors: contiguous, on the CPU, none sharing memory with another.
        metadata: text fields of the header.

    Raises:
        OSError: it cannot be written; what was there before is still there.
    """
    from safetensors.torch import save

    data = save(dict(tensors), metadata=dict(metadata or {}))
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _scale_of(tensors: Mapping[str, Tensor]) -> int | None:
    """The scale that a generator of this family was made for; None where its shapes tell none.

    SRNet's first convolution reads the frame and the past, 3 s^2 channels of it
    (:attr:`Variant.input_channels`), so that s follows; a pixel shuffle must agree.
    """
    first = tensors.get(_FIRST)
    if first is None or first.ndim != 4:
        return None
    channels, inputs = first.shape[:2]
    has_flow = any(key.startswith("fnet.") for key in tensors)
    if not has_flow and inputs == 3 + 3 * SCALE * SCALE:
        return None  # ours, and its flow net was lost
    # Without a flow net the previous frame and the latent state are read besides.
    past = inputs - 3 if has_flow else inputs - 6 - channels
    scale = isqrt(max(past, 0) // 3)
    if not scale or past != 3 * scale * scale:
        return None
    shuffled = tensors.get("srnet.conv_shuffle.weight")
    agrees = shuffled is None or (shuffled.ndim == 4 and shuffled.shape[0] == 3 * scale * scale)
    return scale if agrees else None


def _without_flow(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are weights of a variant without a flow net: no FNet, and a wider input."""
    first = tensors.get(_FIRST)
    if first is None or first.ndim != 4 or any(key.startswith("fnet.") for key in tensors):
        return False
    channels, inputs = first.shape[:2]
    return inputs == Variant(channels=channels or 1, flow_channels=0).input_channels


def _tail_of(tensors: Mapping[str, Tensor], source: str) -> Tail:
    if "srnet.conv_shuffle.weight" in tensors:
        return "shuffle"
    out = tensors.get("srnet.conv_out.weight")
    if out is None:
        raise ModelError(
            f"{source} has no output convolution, srnet.conv_out or srnet.conv_shuffle",
            hint="the file is damaged or belongs to another network",
        )
    channels = tensors[_FIRST].shape[0]
    return "egvsr" if out.ndim == 4 and out.shape[1] * 16 == channels else "transposed"


def _some(tensors: Mapping[str, Tensor]) -> str:
    names = list(tensors)[:3]
    return f"such as {', '.join(names)}" if names else "none"


def _looks_like_safetensors(path: Path) -> bool:
    # torch.load would read a .safetensors file by its suffix, whatever is in it.
    if path.suffix.lower() == ".safetensors":
        return True
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:9] == b"{" and not head.startswith(b"PK")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = cast("list[str]", list(file.keys()))
            return {n: file.get_tensor(n) for n in names}, dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path} is a damaged safetensors file: {error}", hint="fetch or save it again"
        ) from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            # It warns that pickle protocols other than 2 may fail; if one does, we say so.
            warnings.simplefilter("ignore", UserWarning)
            data: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} is not plain weights: it holds objects that would have to run code, or it is "
            "no PyTorch file at all",
            hint="save only model.state_dict() in the program that made it, and load that",
        ) from error
    except Exception as error:  # what foreign bytes make of an unpickler is anyone's guess
        reason = str(error)[:200].partition("\n")[0] or "it is empty"
        raise ModelError(
            f"{path} cannot be read as weights: {reason}",
            hint="expected a .safetensors or a PyTorch .pth file",
        ) from error
    for key in ("state_dict", "params", "model"):
        if isinstance(data, dict) and isinstance(data.get(key), dict):
            data = data[key]
    if not isinstance(data, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in data.items()
    ):
        raise ModelError(
            f"{path} holds something else than a dict of named tensors",
            hint="save only model.state_dict() in the program that made it, and load that",
        )
    return {key.removeprefix("module."): value for key, value in data.items()}


def save_discriminator(path: str | Path, discriminator: Discriminator) -> None:
    """Write safetensors, float32 under the published names, beside the final name and rename."""
    state = discriminator.state_dict()
    write_tensors(path, {k: v.detach().cpu().contiguous().clone() for k, v in state.items()})


def load_discriminator(path: str | Path, size: int = 128) -> dict[str, Tensor]:
    """Read what :func:`save_discriminator` wrote, as a state dict.

    Args:
        path: the file.
        size: S, the side of the pictures that are to be judged.

    Raises:
        ModelError: the file is missing, unreadable, or holds no discriminator for this size.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    if not path.is_file():
        raise ModelError(f"no discriminator at {path}", hint="check the path", exit_code=2)
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path} is a damaged safetensors file: {error}", hint="train it again"
        ) from error
    with torch.device("meta"):
        expected = {k: tuple(v.shape) for k, v in Discriminator(size).state_dict().items()}
    found = {k: tuple(v.shape) for k, v in state.items()}
    if found != expected:
        odd = sorted(k for k in {*found, *expected} if found.get(k) != expected.get(k))
        raise ModelError(
            f"{path} holds no discriminator for pictures of {size}x{size}: {odd[0]} is "
            f"{found.get(odd[0], 'absent')}, expected {expected.get(odd[0], 'nothing')}",
            hint="`teco train` writes discriminator.safetensors in the GAN stage; --crop must be "
            "that of its run",
            exit_code=2,
        )
    return state
