"""Which shipped model, for people who say what they want and no names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from teco.core.errors import USAGE, TecoError
from teco.model.opening import DEFAULT_OF_SCALE, open_model
from teco_models import zoo
from teco_models.variant import SCALE, Degradation

Quality = Literal["fast", "balanced", "best"]
"""``fast``: as ``balanced``, on the fastest runtime whatever it computes in. ``balanced``: in
float32. Where nothing is said, likewise, but on an NVIDIA GPU a form in float16 may be taken whose
gate passed. ``best``: the largest network for ordinary clips, in float32; today there is one of
each scale, so that it is as ``balanced``."""

Look = Literal["faithful", "textured"]
"""``faithful``: trained on the difference from the truth alone. ``textured``: to look like the
truth, with texture that the clip does not have."""

LARGEST = dict(DEFAULT_OF_SCALE)
"""By scale, the network that ``best`` takes."""

TEXTURED = {4: "real-cpu-textured"}
"""By scale, the network that ``textured`` takes, in every quality."""


@dataclass(frozen=True)
class Shipped:
    """What a person who chooses wants to know of a shipped model.

    Attributes:
        name: as ``--model`` takes it.
        scale: how many times as high and wide its pictures are.
        purpose: the clips that it was trained for.
        look: see :data:`Look`.
        parameters: of the network.
        bytes: of its ONNX file, with weights that lie beside it.
    """

    name: str
    scale: int
    purpose: Literal["ordinary clips", "papers (BD)", "papers (BI)"]
    look: Look
    parameters: int
    bytes: int


_PURPOSES: dict[Degradation, Literal["ordinary clips", "papers (BD)", "papers (BI)"]] = {
    "real": "ordinary clips", "bd": "papers (BD)", "bi": "papers (BI)",
}  # fmt: skip


def shipped() -> tuple[Shipped, ...]:
    """All shipped models, those for ordinary clips first."""
    found = [_described(entry.name) for entry in zoo.entries()]
    return tuple(sorted(found, key=lambda m: (m.purpose != "ordinary clips", -m.scale)))


def _described(name: str) -> Shipped:
    model = open_model(name)
    variant = model.variant
    assert model.onnx is not None
    assert model.manifest is not None
    files = (model.onnx, *(model.onnx.with_name(data) for data in model.manifest.data_sha256))
    return Shipped(
        name, variant.scale, _PURPOSES[variant.degradation],
        "textured" if name.endswith(("-textured", "-gan")) else "faithful",
        variant.cost(180, 320).params["total"], sum(path.stat().st_size for path in files),
    )  # fmt: skip


@dataclass(frozen=True)
class ModelChoice:
    """What was chosen.

    Attributes:
        model: as :func:`teco.model.opening.open_for_scale` takes it.
        wish: what its runtime may compute in, as :func:`teco.runtimes.choose` takes it.
    """

    model: str | None
    wish: Literal["float32", "gated", "any"] = "gated"


def choose(
    model: str | None, scale: int | None, quality: Quality | None, look: Look | None
) -> ModelChoice:
    """The model for a wish.

    Args:
        model: that was named, None for none.
        scale: how many times the picture is to be enlarged; None where nothing was said.
        quality, look: None where nothing was said.

    Raises:
        TecoError: a look besides a name, or one that there is no network for; exit code 2.
    """
    wishes: dict[Quality | None, Literal["float32", "gated", "any"]]
    wishes = {None: "gated", "fast": "any", "balanced": "float32", "best": "float32"}
    wish = wishes[quality]
    if model is not None:
        if look is not None or quality == "best":
            option = "--look" if look is not None else "--quality best"
            raise TecoError(
                f"{option} chooses a model, and --model names one",
                hint="leave one of both out",
                exit_code=USAGE,
            )
        return ModelChoice(model, wish)
    known = SCALE if scale is None else scale
    if look == "textured" and known in DEFAULT_OF_SCALE:
        if known not in TEXTURED:
            raise TecoError(
                f"there is no textured network that enlarges {known} times",
                hint=f"leave --look out, or use --scale {next(iter(TEXTURED))}",
                exit_code=USAGE,
            )
        return ModelChoice(TEXTURED[known], wish)
    if quality == "best":
        return ModelChoice(LARGEST.get(known), wish)
    return ModelChoice(None, wish)
