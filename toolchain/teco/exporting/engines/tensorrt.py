"""TensorRT 10 and 11 engines: built on the GPU that will run them, or on its like.

Nothing in this file has yet been run on a GPU. The build itself is
:mod:`teco.exporting.engines.build`, which TensorRT-RTX runs in the tests; the calls that only
TensorRT has are checked against its type stubs and NVIDIA's documentation.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from teco.core import gpu
from teco.core.errors import MACHINE, USAGE, TecoError
from teco.core.files import WriteError, write_beside
from teco.core.garbage import no_collection
from teco.core.gpu import Gpu
from teco.exporting.engines.build import BuildOptions, EngineTarget, build
from teco.model.engine import precision_check
from teco.model.engine.api import Bindings, Config, Context, Engine, load, to_bytes
from teco.model.engine.manifest import HARDWARE
from teco.model.engine.network import make_logger
from teco.model.opening import Model

logger = logging.getLogger(__name__)

_LEVELS = {"ampere-plus": "AMPERE_PLUS", "same-compute-capability": "SAME_COMPUTE_CAPABILITY"}


@dataclass(frozen=True, kw_only=True)
class TensorRtOptions(BuildOptions):
    """What a TensorRT engine can be asked for.

    Attributes:
        timing_cache: file of measured kernel times, read if it is there and written after the
            build; later builds take seconds and choose the same kernels.
        version_compatible: let later TensorRT versions run it; can be slower.
        hardware: one of :data:`teco.model.engine.manifest.HARDWARE`, what other GPUs may run it;
            can be slower.
        refittable: let :func:`refit` replace its weights; can be slower.
    """

    timing_cache: Path | None = None
    version_compatible: bool = False
    hardware: str = "none"
    refittable: bool = False


def build_tensorrt(
    model: Model,
    folder: Path,
    options: TensorRtOptions | None = None,
    *,
    overwrite: bool = False,
) -> Path:
    """Build an engine for TensorRT on this machine's first GPU.

    Args:
        model: from :func:`teco.model.opening.open_model`, an ONNX file.
        folder: where the ``.plan`` and its ``.json`` go; must exist.
        options: what to build.
        overwrite: replace files of the same name.

    Returns:
        Path of the plan.

    Raises:
        TecoError: no GPU or the extra ``tensorrt`` is missing (exit code 3), an ONNX file that
            cannot be parsed, a precision that the network or the inspector does not bear out, a
            folder or disk that cannot take the file. Nothing new is left under the final name.
    """
    options = options or TensorRtOptions()
    if options.hardware not in HARDWARE:
        raise TecoError(
            f"hardware compatibility is {options.hardware!r}, expected {', '.join(HARDWARE)}",
            exit_code=USAGE,
        )
    trt, gpu = require()
    cache = _read_cache(options.timing_cache)

    def configure(config: Config) -> None:
        # Without details the inspector tells the layers' names and not their types.
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if options.version_compatible:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        if options.refittable:
            config.set_flag(trt.BuilderFlag.REFIT)
        if options.hardware != "none":
            config.hardware_compatibility_level = _level(trt, options.hardware)
        if options.timing_cache is not None and not config.set_timing_cache(
            config.create_timing_cache(cache), False
        ):  # it is of another GPU or version: begin an empty one
            config.set_timing_cache(config.create_timing_cache(b""), False)

    def inspect(plan: bytes) -> precision_check.Proof | None:
        proof = precision_check.of_engine(describe(trt, plan))
        if proof is None:
            logger.info("the inspector tells no types, so the built layers are not proven")
        else:
            logger.info(f"built: {proof.text(options.precision or _asked(model))}")
        return proof

    def finish(config: Config) -> None:
        if options.timing_cache is None:
            return
        data = to_bytes(config.get_timing_cache().serialize())
        try:
            write_beside(options.timing_cache, data)
        except WriteError as error:  # the engine is there, and complete without it
            logger.warning(error.message)

    target = EngineTarget(
        name="tensorrt",
        configure=configure,
        inspect=inspect,
        finish=finish,
        facts={
            "compute_capabilities": (gpu.compute_capability,),
            "hardware": options.hardware,
            "version_compatible": options.version_compatible,
            "refittable": options.refittable,
        },
    )
    return build(trt, model, folder, options, target, overwrite=overwrite)


def require() -> tuple[Bindings, Gpu]:
    """TensorRT and the GPU that engines are built on.

    Raises:
        TecoError: one of the two is missing; exit code 3.
    """
    found = [g for g in gpu.find() if g.compute_capability]
    if not found:
        raise TecoError(
            "TensorRT builds an engine on the GPU that is to run it, and nvidia-smi finds none "
            "here",
            hint="`teco export --formats rtx` builds one for TensorRT-RTX on any machine",
            exit_code=MACHINE,
        )
    return load("tensorrt", "building an engine for TensorRT"), found[0]


def describe(trt: Bindings, plan: bytes) -> str:
    """The inspector's JSON about a plan's layers.

    Where sizes are dynamic the inspector knows formats and types only of a context that has its
    shapes (NVIDIA's documentation of ``IEngineInspector``); it is given the profile's usual ones.

    Raises:
        TecoError: the plan cannot be deserialised here.
    """
    engine = _deserialise(trt, plan, "the new engine", make_logger(trt))
    inspector = engine.create_engine_inspector()
    context = engine.create_execution_context(
        trt.ExecutionContextAllocationStrategy.USER_MANAGED  # it runs nothing and needs no memory
    )
    if context is not None and _takes_usual_shapes(engine, context):
        inspector.execution_context = context
    return inspector.get_engine_information(trt.LayerInformationFormat.JSON)


def _takes_usual_shapes(engine: Engine, context: Context) -> bool:
    names = [engine.get_tensor_name(n) for n in range(engine.num_io_tensors)]
    inputs = [n for n in names if engine.get_tensor_mode(n).name == "INPUT"]
    return all(
        context.set_input_shape(n, tuple(engine.get_tensor_profile_shape(n, 0)[1])) for n in inputs
    )


def refit(trt: Bindings, plan: bytes, onnx: Path) -> bytes:
    """Put the weights of another ONNX file of the same graph into an engine.

    Args:
        trt: the bindings.
        plan: of an engine that was built refittable.
        onnx: the ONNX file.

    Returns:
        The plan with the new weights.

    Raises:
        TecoError: the engine is not refittable, or the graphs differ.
    """
    log = make_logger(trt)
    engine = _deserialise(trt, plan, "the engine", log)
    refitter = trt.Refitter(engine, log)
    parser = trt.OnnxParserRefitter(refitter, log)
    with no_collection():
        done = (
            parser.refit_from_bytes(onnx.read_bytes(), str(onnx)) and refitter.refit_cuda_engine()
        )
    if not done:
        told = parser.get_error(0).desc() if parser.num_errors else log.first_error()
        raise TecoError(
            f"the engine's weights could not be replaced: {told or 'no reason given'}",
            hint="only an engine built as refittable takes weights, and only from the same graph",
        )
    return to_bytes(engine.serialize())


def _deserialise(trt: Bindings, plan: bytes, what: str, log: Any) -> Engine:
    loader = trt.Runtime(log)
    # A version-compatible plan carries the runtime it was built with, which is code; both callers
    # have just built the plan, or were given it to change.
    loader.engine_host_code_allowed = True
    with no_collection():
        engine = loader.deserialize_cuda_engine(plan)
    if engine is None:
        raise TecoError(
            f"{what} cannot be loaded by TensorRT {trt.__version__}: "
            f"{log.first_error() or 'no reason given'}",
            exit_code=MACHINE,
        )
    return engine


def _level(trt: Bindings, hardware: str) -> Any:
    level = getattr(trt.HardwareCompatibilityLevel, _LEVELS[hardware], None)
    if level is None:
        raise TecoError(
            f"TensorRT {trt.__version__} has no hardware compatibility {hardware!r}",
            exit_code=MACHINE,
        )
    return level


def _asked(model: Model) -> str:
    return "" if model.manifest is None else model.manifest.precision_asked


def _read_cache(path: Path | None) -> bytes:
    if path is None or not path.exists():
        return b""
    try:
        return path.read_bytes()
    except OSError as error:
        raise TecoError(f"{path} cannot be read: {error.strerror or error}") from error
