"""The perceptual loss: how alike two pictures look to a network that names what is on them.

At four depths of a VGG the features of both pictures are compared by their direction (one minus
the cosine similarity over channels), which asks for the right structures and forgives a pixel's
shift that a pixel loss would answer with blur.

Source: TecoGAN (Chu et al. 2020, section 3.3), VGG19 after the ReLUs of conv2_2, conv3_4, conv4_4
and conv5_4; TecoGAN-PyTorch feeds RGB in [0, 1] normalised as torchvision's weights expect it.
VGG16 has three convolutions where VGG19 has four in the deeper stages; the last of each is taken
there too. It can be had where torchvision's download cannot
(:mod:`teco_calibration.metrics.lpips_backbone`).

:class:`LpipsVgg` weighs the same features by what people told apart (Zhang et al. 2018), from the
first stage on: LPIPS on VGG16, as a loss. What this project reports as LPIPS is measured on
AlexNet, another network with heads of its own.

Shape legend: M pictures, H x W their size.
"""

from __future__ import annotations

import contextlib
import importlib.util
import pickle
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from teco.core.errors import FAILED, MACHINE, USAGE, TecoError
from teco_calibration.errors import ClipError
from teco_calibration.metrics.lpips_backbone import FETCH_COMMAND, find_backbone, load_backbone

Which = Literal["vgg19", "vgg16", "lpips-vgg"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""RGB in [0, 1]; what torchvision's classifiers were trained with."""

SIMILARITY_EPS = 1e-8
"""Smallest length of a feature vector (TecoGAN-PyTorch): one of zeros is like none."""

MIN_SIZE = 16
"""Pixels: the deepest compared layer lies behind four halvings."""

VGG19_URL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
"""torchvision's ``VGG19_Weights.IMAGENET1K_V1``; the name ends in the start of its sha256."""

VGG16_COMMAND = f"{FETCH_COMMAND} --vgg"


@dataclass(frozen=True, kw_only=True)
class _Vgg:
    """Which convolutions a VGG has and where it is listened to.

    Attributes:
        depths: 3x3 convolutions of each of the five stages; a halving follows each stage.
        layers: torchvision's ``features`` indices of the ReLUs whose outputs are compared.
    """

    depths: tuple[int, ...]
    layers: tuple[int, ...]


_WIDTHS = (64, 128, 256, 512, 512)

VGGS: Mapping[Which, _Vgg] = {
    "vgg19": _Vgg(depths=(2, 2, 4, 4, 4), layers=(8, 17, 26, 35)),
    "vgg16": _Vgg(depths=(2, 2, 3, 3, 3), layers=(8, 15, 22, 29)),
    "lpips-vgg": _Vgg(depths=(2, 2, 3, 3, 3), layers=(3, 8, 15, 22, 29)),
}

LPIPS_EPS = 1e-10
"""Added to the length of a feature vector (lpips 0.1)."""


def _features(vgg: _Vgg) -> nn.Sequential:
    """The convolutional part under torchvision's indices, without memory for its weights."""
    modules: list[nn.Module] = []
    cin = 3
    # The meta device: random weights would cost a second and move torch's random state.
    with torch.device("meta"):
        for width, depth in zip(_WIDTHS, vgg.depths, strict=True):
            for _ in range(depth):
                modules += [nn.Conv2d(cin, width, 3, 1, 1), nn.ReLU()]
                cin = width
            modules.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(*modules[: vgg.layers[-1] + 1])


class Perceptual(nn.Module):
    """Cosine distance of VGG features, summed over four layers: 0 alike, up to 4 nothing alike.

    The weights are frozen; no gradient is ever made for them. Build it with :func:`perceptual`, or
    with :meth:`from_weights`.

    Args:
        which: the backbone.
        features: its convolutional part up to the deepest compared layer.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, which: Which, features: nn.Sequential) -> None:
        super().__init__()
        self.which: Which = which
        self.layers = VGGS[which].layers
        self.features = features
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))
        self.eval().requires_grad_(False)

    @classmethod
    def from_weights(
        cls, which: Which, weights: Mapping[str, Tensor | npt.NDArray[np.float32]]
    ) -> Self:
        """Build it from weights under torchvision's names.

        Args:
            which: the backbone.
            weights: ``features.<i>.weight`` (out, in, 3, 3) and ``features.<i>.bias`` (out,);
                other names (the classifier) are left alone.

        Raises:
            TecoError: a layer is absent or of another shape.
        """
        features = _features(VGGS[which])
        state: dict[str, Tensor] = {}
        for name, empty in features.state_dict().items():
            key = f"features.{name}"
            found = torch.as_tensor(weights[key]) if key in weights else None
            if found is None or found.shape != empty.shape:
                received = "absent" if found is None else f"of shape {tuple(found.shape)}"
                raise TecoError(
                    f"these are no {which} weights: {key} is {received}, expected "
                    f"{tuple(empty.shape)}",
                    hint=f"get VGG16 with: {VGG16_COMMAND}",
                )
            state[name] = found.detach().float().contiguous()
        features.load_state_dict(state, assign=True)
        return cls(which, features)

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode whatever the network it is part of does."""
        return super().train(False)

    def encode(self, x: Tensor) -> list[Tensor]:
        """(M, 3, H, W) RGB in [0, 1] -> the four layers' outputs, after their ReLUs."""
        x = (x - self.mean) / self.std
        outputs: list[Tensor] = []
        for index, module in enumerate(self.features):
            x = module(x)
            if index in self.layers:
                outputs.append(x)
        return outputs

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The distance, a scalar in float32.

        Args:
            x: (M, 3, H, W) RGB, nominally in [0, 1]; sides of at least 16 pixels.
            y: the same shape, the truth; taken as a constant.

        Raises:
            TecoError: shapes that differ or are too small.
        """
        if x.shape != y.shape or x.ndim != 4 or x.shape[1] != 3 or min(x.shape[2:]) < MIN_SIZE:
            raise TecoError(
                f"the perceptual loss was given {tuple(x.shape)} and {tuple(y.shape)}; expected "
                f"two batches (M, 3, H, W) of one size, at least {MIN_SIZE}x{MIN_SIZE}",
                hint="train on larger crops",
                exit_code=USAGE,
            )
        with torch.no_grad():
            truth = self.encode(y)
        losses = [
            self.compare(layer, a.float(), b.float())
            for layer, (a, b) in enumerate(zip(self.encode(x), truth, strict=True))
        ]
        return torch.stack(losses).sum()

    def compare(self, layer: int, x: Tensor, y: Tensor) -> Tensor:
        """The part of one layer, a scalar.

        Args:
            layer: which, from 0.
            x: its features (M, C, h, w), float32.
            y: those of the truth.
        """
        return 1 - F.cosine_similarity(x, y, dim=1, eps=SIMILARITY_EPS).mean()


class LpipsVgg(Perceptual):
    """LPIPS v0.1 on VGG16, summed over five layers: 0 alike.

    Args:
        which: ``"lpips-vgg"``.
        features: VGG16's convolutional part.
        heads: of each layer, (1, C, 1, 1) and none negative: how much each channel tells.
    """

    def __init__(self, which: Which, features: nn.Sequential, heads: Sequence[Tensor]) -> None:
        super().__init__(which, features)
        for layer, head in enumerate(heads):
            self.register_buffer(f"head{layer}", head)

    @classmethod
    def from_weights(
        cls, which: Which, weights: Mapping[str, Tensor | npt.NDArray[np.float32]]
    ) -> Self:
        """Build it from VGG16's weights and the heads under their names in the ``lpips`` package.

        Args:
            which: ``"lpips-vgg"``.
            weights: as :meth:`Perceptual.from_weights`, and ``lin<i>.model.1.weight`` (1, C, 1, 1).

        Raises:
            TecoError: as there.
        """
        heads: list[Tensor] = []
        vgg = VGGS[which]
        for layer in range(len(vgg.layers)):
            key = f"lin{layer}.model.1.weight"
            head = torch.as_tensor(weights[key]) if key in weights else None
            wanted = (1, _WIDTHS[layer], 1, 1)
            if head is None or head.shape != wanted:
                received = "absent" if head is None else f"of shape {tuple(head.shape)}"
                raise TecoError(
                    f"these are no heads of LPIPS on VGG16: {key} is {received}, expected {wanted}",
                    hint="install the package that has them again: pip install "
                    "--force-reinstall lpips",
                )
            heads.append(head.detach().float())
        return cls(which, Perceptual.from_weights(which, weights).features, heads)

    def compare(self, layer: int, x: Tensor, y: Tensor) -> Tensor:
        """The mean over the picture of the weighted squared differences of unit vectors."""
        head = self.get_buffer(f"head{layer}")
        # vector_norm: unlike a root of a sum, it has a gradient where no feature answers.
        x, y = (f / (torch.linalg.vector_norm(f, dim=1, keepdim=True) + LPIPS_EPS) for f in (x, y))
        return ((x - y).square() * head).sum(1).mean()


# --- where the weights come from -------------------------------------------------------------


def vgg19_path() -> Path:
    """Where torch.hub caches torchvision's VGG19, or would."""
    return Path(torch.hub.get_dir()) / "checkpoints" / VGG19_URL.rpartition("/")[2]


def perceptual(which: Literal["auto"] | Which, device: torch.device | str) -> Perceptual:
    """The perceptual loss with trained weights.

    Args:
        which: ``vgg19`` is the references' and is downloaded by torch.hub (575 MB) if it is not in
            its cache; ``vgg16`` is read from torchvision's or teco's cache; ``lpips-vgg`` takes
            the heads of the ``lpips`` package on that; ``auto`` takes VGG19 where it is cached,
            else VGG16, and downloads nothing.
        device: where it runs.

    Raises:
        TecoError: no weights are there, or they cannot be read or downloaded; an unknown name.
    """
    if which == "auto":
        which = "vgg19" if vgg19_path().is_file() else "vgg16"
    if which == "vgg19":
        return Perceptual.from_weights("vgg19", _load_vgg19()).to(device)
    if which == "vgg16":
        return Perceptual.from_weights("vgg16", _load_vgg16()).to(device)
    if which == "lpips-vgg":
        weights = {**_load_vgg16(), **_load_heads()}
        return LpipsVgg.from_weights("lpips-vgg", weights).to(device)
    raise TecoError(
        f"there is no perceptual loss called {which!r}",
        hint="perceptual: auto, vgg19, vgg16, lpips-vgg",
        exit_code=USAGE,
    )


def _load_vgg16() -> Mapping[str, npt.NDArray[np.float32]]:
    if find_backbone("vgg16") is None:
        raise TecoError(
            "the perceptual loss has no network to see with: neither VGG19 nor VGG16 is in a cache",
            hint=f"fetch VGG16 once (64 MB) with: {VGG16_COMMAND}",
            exit_code=MACHINE,
        )
    try:
        return load_backbone("vgg16")
    except ClipError as error:
        raise TecoError(error.message, hint=error.hint, exit_code=error.exit_code) from error


def _load_heads() -> Mapping[str, Tensor]:
    # Its file alone: its code imports all of torchvision.
    spec = importlib.util.find_spec("lpips")
    if spec is None or spec.origin is None:
        raise TecoError(
            "the perceptual loss lpips-vgg needs lpips, which is not installed",
            hint="pip install 'teco[torch]', or take --perceptual vgg16",
            exit_code=MACHINE,
        )
    path = Path(spec.origin).parent / "weights" / "v0.1" / "vgg.pth"
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise TecoError(
            f"{path} cannot be read as the heads of LPIPS: {_first_line(error)}",
            hint="install the package that has them again: pip install --force-reinstall lpips",
        ) from error
    return cast("dict[str, Tensor]", state)


def _load_vgg19() -> Mapping[str, Tensor]:
    path = vgg19_path()
    cached = path.is_file()
    try:
        with contextlib.redirect_stdout(sys.stderr):  # it announces a download on stdout
            state: Any = torch.hub.load_state_dict_from_url(
                VGG19_URL, map_location="cpu", check_hash=True, weights_only=True
            )
    # What it raises: OSError, urllib's included, for the network and the disk; RuntimeError for a
    # wrong hash or a broken archive; the others for a file that is none.
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        if cached:
            raise TecoError(
                f"{path} cannot be read as VGG19's weights: {_first_line(error)}",
                hint=f"delete it, or take VGG16 instead, fetched once with: {VGG16_COMMAND}",
                exit_code=FAILED,
            ) from error
        raise TecoError(
            f"VGG19 could not be downloaded from {VGG19_URL}: {_first_line(error)}",
            hint=f"put the file at {path} by other means, or take VGG16 instead, fetched once "
            f"with: {VGG16_COMMAND}",
            exit_code=MACHINE,
        ) from error
    if not isinstance(state, dict):
        raise TecoError(
            f"{path} holds a {type(state).__name__}, expected VGG19's weights",
            hint="delete it",
            exit_code=FAILED,
        )
    return cast("dict[str, Tensor]", state)


def _first_line(error: BaseException) -> str:
    """What a library says at length, in a line."""
    return (str(error).splitlines() or [type(error).__name__])[0]
