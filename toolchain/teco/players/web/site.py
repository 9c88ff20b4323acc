"""The page's folder as a table: name -> file or text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from teco import __version__
from teco.core.errors import USAGE, TecoError
from teco.model import choice
from teco.model.manifest import manifest_path
from teco.model.opening import Model, open_model
from teco.players.base import manifest_text
from teco.players.web.onnxruntime_web import VERSION, WebRuntime
from teco_models import zoo
from teco_models.variant import Variant

DEFAULT_MODEL = "real-cpu"
"""What a page begins with: for ordinary clips, and the fastest of its kind."""

WEB = "web"
"""The target of ``teco export --for`` whose form browsers get."""

GAP_WITHOUT_FLOW, GAP_COMPUTED = 8, 4
"""Frames that a page may leave out between two steps of one scene: for models without a flow net,
and for those whose motion is computed; 0 for flow nets, which start afresh after a frame that was
left out.

Measured with every k-th frame of the development clips (BD, shrunk by 2; PSNR-Y over seven frames,
dB), the past kept, against a cold start of each of them:

    gopro  live 26.75 cold; kept: k=1 26.83, 2 26.82, 4 26.80, 8 26.79
           b3   26.76 cold; kept: k=1 27.23, 2 27.21, 4 26.98, 8 26.70
    bee    live 33.25 cold; kept: k=1 33.50, 2 33.44, 4 33.40, 8 33.36
           b3   33.47 cold; kept: k=1 33.24, 2 32.07, 4 30.38, 8 29.36
    cups   live 29.27 cold; kept: k=1 29.35, 2 29.35, 4 29.34, 8 29.32
           b3   29.48 cold; kept: k=1 29.09, 2 28.58, 4 27.89, 8 27.18

So a latent state survives gaps, and what a flow net has to bridge does not. (b3 as it was
before its past was shown only where it fits, ``teco_models.arch.backprojection.TRUST``.) Computed
motion, real-cpu, x264 at crf 23, 45 frames, PSNR-Y with the past less that without, dB:

    gopro  k=1 +0.17, 2 +0.18, 3 +0.17, 5 +0.13, 9 +0.05
    bee    k=1 +0.21, 2 +0.14, 3 +0.10, 5 +0.03, 9  0.00
    cups   k=1 +0.08, 2 +0.08, 3 +0.06, 5 +0.05, 9 +0.04
"""

_PAGE = (
    "index.html", "style.css", "icon.svg", "page.js", "player.js", "divider.js", "worker.js",
    "paint.js", "teco.js", "session.js", "stream.js", "scenecut.js", "scenecut.wasm",
    "pixels.js", "contract.js", "errors.js", "tracks.js", "lost.js", "sample.mp4", "sw.js",
)  # fmt: skip
_OTHER = ("licences/onnxruntime-web.txt", "README.md")


def web_models(spec: str) -> list[Model]:
    """The models of a page that begins with ``spec``: a shipped one brings the others along,
    those for ordinary clips first.

    Raises:
        TecoError: it is in no form for browsers; exit code 2.
    """
    entry = zoo.find(spec)
    if entry is None:
        model = open_model(spec)
        check_form(model)
        return [model]
    described = {model.name: model for model in choice.shipped()}
    shipped = [e for name in described if (e := zoo.find(name)) and e.web.is_file()]
    if entry not in shipped:
        names = ", ".join(e.name for e in shipped)
        raise TecoError(
            f"{spec} is not shipped in a form for browsers; {names} are",
            hint=f"`teco export --model {spec} --for web`, and give the file that it writes",
            exit_code=USAGE,
        )
    ordered = [entry, *(e for e in shipped if e != entry)]
    return [open_model(str(e.web)) for e in ordered]


def check_form(model: Model) -> None:
    """Raise TecoError where a model is in no form for browsers."""
    if model.onnx is None:
        found = f"is {model.kind}"
    elif model.manifest is None or model.manifest.target != WEB:
        told = model.manifest.target if model.manifest is not None else ""
        found = f"was exported for {told}" if told else "was not exported for browsers"
    else:
        return
    raise TecoError(
        f"{model.name} {found}, and pages want an ONNX file of `teco export --for web`",
        hint="`teco export --weights FILE --for web` makes one",
        exit_code=USAGE,
    )


def site(models: Sequence[Model], runtime: WebRuntime) -> dict[str, str | bytes | Path]:
    """Every file of the page: page, models, runtime, licence.

    Args:
        models: with ONNX files; the first is the one to begin with.
        runtime: onnxruntime-web's files.
    """
    page = resources.files("teco.players.web") / "page"
    files: dict[str, str | bytes | Path] = {name: (page / name).read_bytes() for name in _PAGE}
    listed: list[dict[str, object]] = []
    described = {model.name: model for model in choice.shipped()}
    for model in models:
        assert model.onnx is not None
        assert model.manifest is not None
        main = f"models/{model.onnx.name}"
        files[main] = model.onnx
        files[f"models/{manifest_path(model.onnx).name}"] = manifest_text(model)
        for name in model.manifest.data_sha256:
            files[f"models/{name}"] = model.onnx.with_name(name)
        name = model.onnx.stem.removesuffix(f"-{WEB}")
        title, group = _words(name, described.get(name))
        listed.append(
            {
                "name": name,
                "title": title,
                "group": group,
                "file": main,
                "about": about(model),
                "gap": gap_of(model.variant),
            }
        )
    files |= {f"ort/{name}": path for name, path in runtime.files.items()}
    licence = resources.files("teco.players.web") / "onnxruntime-web-licence.txt"
    files["licences/onnxruntime-web.txt"] = licence.read_text(encoding="utf-8")
    shell = [name for name in (*_PAGE, *_OTHER) if name not in ("index.html", "sw.js")]
    about_site = {
        "teco": __version__,
        "runtime": runtime.version or f"unknown, expected {VERSION}",
        "models": listed,
        "shell": shell,
    }
    files["site.json"] = json.dumps(about_site, indent=2) + "\n"
    return files


_LOOKS = {"faithful": "Faithful", "textured": "Sharper"}


def _words(name: str, known: choice.Shipped | None) -> tuple[str, str]:
    """What a choice of a network says, and the group that it stands in."""
    if known is None:
        return name, "From a file"
    group = "For clips" if known.purpose == "ordinary clips" else "For papers, not for clips"
    return f"{_LOOKS[known.look]}, {known.scale}× larger ({name})", group


def gap_of(variant: Variant) -> int:
    """Frames that may be left out between two steps of one scene."""
    if variant.computed_alignment:
        return GAP_COMPUTED
    return 0 if variant.has_flow else GAP_WITHOUT_FLOW


def about(model: Model) -> str:
    """A model in a sentence."""
    cost = model.variant.cost(180, 320)
    past = "follows the motion" if model.variant.follows_motion else "lies in features, in place"
    return (
        f"{cost.params['total']:,} parameters, {cost.gflop:.1f} GFLOP for a frame of 320×180; "
        f"the past {past}"
    )
