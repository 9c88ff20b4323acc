"""TensorRT-RTX engines: built on any machine, GPU or not, for the GPUs that are named.

Builds are deterministic, the same ONNX file, options and release give the same bytes, with one
measured exception: for SM 75, TensorRT-RTX 1.7.1 fuses the many parallel slices that the deploy
form's ``stack_pixels`` and ``split_input`` make together, in an order that depends on addresses in
memory. A graph exported without ``stack_pixels`` is not touched by it, nor are other capabilities.

Such an engine is not yet machine code; TensorRT-RTX compiles it on the user's GPU when it is first
run. Engines that this module builds have not yet been run on a GPU.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from teco.core.errors import USAGE, TecoError
from teco.exporting.engines.build import BuildOptions, EngineTarget, build
from teco.model.engine import header
from teco.model.engine.api import Config, RtxBindings, RtxConfig, load
from teco.model.engine.precision_check import Proof
from teco.model.opening import Model

logger = logging.getLogger(__name__)

DEFAULT_SM = (86, 89, 120)
"""Ampere, Ada and Blackwell GeForce, for which NVIDIA's own default is portable too."""

_TURING = 75


@dataclass(frozen=True, kw_only=True)
class RtxOptions(BuildOptions):
    """What a TensorRT-RTX engine can be asked for.

    Attributes:
        sm: compute capabilities it shall run on, 89 for 8.9; no others will.
    """

    sm: tuple[int, ...] = DEFAULT_SM


def build_rtx(
    model: Model,
    folder: Path,
    options: RtxOptions | None = None,
    *,
    overwrite: bool = False,
) -> Path:
    """Build an engine for TensorRT-RTX; needs no GPU.

    Args:
        model: from :func:`teco.model.opening.open_model`, an ONNX file.
        folder: where the ``.plan`` and its ``.json`` go; must exist.
        options: what to build.
        overwrite: replace files of the same name.

    Returns:
        Path of the plan.

    Raises:
        TecoError: the extra ``rtx`` is missing (exit code 3), an unknown compute capability, an
            ONNX file that cannot be parsed or does not bear out its precision, a folder or disk
            that cannot take the file. Nothing new is left under the final name.
    """
    options = options or RtxOptions()
    trt = cast(RtxBindings, load("rtx", "building an engine for TensorRT-RTX"))
    sm = check_sm(trt, options.sm)
    if _TURING in sm and len(sm) > 1:
        logger.warning(
            "one engine for SM 75 and others can be slower on those than one without 75 "
            "(NVIDIA's support matrix)"
        )

    def configure(config: Config) -> None:
        rtx = cast(RtxConfig, config)
        rtx.num_compute_capabilities = len(sm)
        for index, capability in enumerate(sm):
            value = getattr(trt.ComputeCapability, f"SM{capability}")
            if not rtx.set_compute_capability(value, index):
                raise TecoError(f"TensorRT-RTX {trt.__version__} refused SM {capability}")
        # Without it a run may allocate by itself, and what does cannot be captured in a CUDA graph.
        # Releases before 1.2 lack it.
        flag = getattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION", None)
        if flag is not None:
            config.set_flag(flag)

    def inspect(plan: bytes) -> Proof | None:
        found = header.parse(plan[: header.LENGTH])
        told = found and found.compute_capabilities
        if told is not None and told != sm:
            raise TecoError(
                f"the engine was asked for SM {_list(sm)} and its header says {_list(told)}",
                hint="report this with the versions that `teco doctor` prints",
            )
        return None

    target = EngineTarget(
        name="rtx",
        configure=configure,
        inspect=inspect,
        facts={
            "compute_capabilities": sm,
            "hardware": "none",
            "version_compatible": False,
            "refittable": False,
        },
    )
    return build(trt, model, folder, options, target, overwrite=overwrite)


def known_sm(trt: RtxBindings) -> tuple[int, ...]:
    """Compute capabilities that these bindings build for."""
    names = trt.ComputeCapability.__members__
    return tuple(sorted(int(x[2:]) for x in names if x.startswith("SM") and x[2:].isdecimal()))


def check_sm(trt: RtxBindings, asked: tuple[int, ...]) -> tuple[int, ...]:
    """Asked capabilities in order, each once.

    Raises:
        TecoError: none, or one that TensorRT-RTX does not build for.
    """
    known = known_sm(trt)
    unknown = [x for x in asked if x not in known]
    if not asked or unknown:
        what = f"SM {_list(unknown)}" if unknown else "no compute capability at all"
        hint = f"--sm {','.join(map(str, DEFAULT_SM))}"
        if 90 in unknown or 100 in unknown:
            hint = "data centre GPUs run TensorRT instead: `teco export --formats tensorrt` on one"
        raise TecoError(
            f"TensorRT-RTX {trt.__version__} cannot build for {what}; it can for SM {_list(known)}",
            hint=hint,
            exit_code=USAGE,
        )
    return tuple(sorted(set(asked)))


def _list(values: tuple[int, ...] | list[int]) -> str:
    return ", ".join(map(str, values)) or "(none)"
