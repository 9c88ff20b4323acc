"""ONNX file to engine, the part that TensorRT-RTX and TensorRT 10 and 11 share.

Networks are strongly typed on all of them: precision is what the ONNX file's tensor types and Q/DQ
nodes say, and no builder flag, calibrator or layer setting could change it. TensorRT 11 knows no
other way; on TensorRT 10 it behaves the same.

TF32, which both allow by default, is switched off: it would be a lower precision under the name of
float32. ONNX Runtime's CUDA provider is treated the same here.
"""

from __future__ import annotations

import hashlib
import logging
import platform
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from teco.core.errors import USAGE, TecoError
from teco.core.files import Output, check_target, write_errors
from teco.core.garbage import no_collection
from teco.core.machine import version_of
from teco.model.engine import precision_check
from teco.model.engine.api import (
    PRODUCTS,
    Bindings,
    Config,
    Network,
    to_bytes,
)
from teco.model.engine.manifest import EngineManifest
from teco.model.engine.network import Parsed, make_logger, parse
from teco.model.engine.profile import Profile, profile_of, words
from teco.model.manifest import Manifest, manifest_path
from teco.model.opening import Model
from teco.runtimes.ports import shape_of

logger = logging.getLogger(__name__)

SUFFIX = ".plan"


_SPEAK_EVERY = 5.0
"""Seconds between lines while one phase lasts; callbacks come in thousands."""


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What every engine can be asked for.

    Attributes:
        precision: label that the network must bear out; None for what the ONNX file was asked for.
        profile: least, usual and greatest LR (h, w) of a dynamic ONNX file; None for
            :data:`DYNAMIC_PROFILE`. Must be None for a static one.
        workspace_mib: most scratch memory that a layer may take on the GPU, in MiB; None for all
            there is.
        name: file name without suffix; None for the ONNX file's name, its size and precision where
            the name lacks them, and the target.
    """

    precision: str | None = None
    profile: Profile | None = None
    workspace_mib: int | None = None
    name: str | None = None


@dataclass(frozen=True, kw_only=True)
class EngineTarget:
    """What distinguishes the engines of one product in the shared build.

    Attributes:
        name: "rtx" or "tensorrt".
        configure: sets what only it has.
        facts: fields of :class:`EngineManifest` that only its builder knows.
        inspect: looks at the finished plan and gives the precision of the built layers; it may
            raise to refuse it.
        finish: called when the plan has its name, with the configuration it was built with.
    """

    name: str
    configure: Callable[[Config], None]
    facts: dict[str, Any] = field(default_factory=dict)
    inspect: Callable[[bytes], precision_check.Proof | None] = lambda _: None
    finish: Callable[[Config], None] = lambda _: None


def build(
    trt: Bindings,
    model: Model,
    folder: Path,
    options: BuildOptions,
    target: EngineTarget,
    *,
    overwrite: bool,
) -> Path:
    """Parse, prove, build, then name.

    Args:
        trt: the bindings.
        model: with an ONNX file and its manifest.
        folder: where the ``.plan`` and its ``.json`` go; must exist.
        options: what to build.
        target: what is particular to it.
        overwrite: replace files of the same name.

    Returns:
        Path of the plan.

    Raises:
        TecoError: any of it failed; nothing new is left under the final name.
    """
    if model.onnx is None or model.manifest is None:
        raise TecoError(
            f"engines are built from ONNX files, {model.name} is none",
            hint="`teco export --weights FILE` makes one",
            exit_code=USAGE,
        )
    source, contract = model.manifest, model.manifest.contract
    asked = options.precision or source.precision_asked
    name = options.name or engine_name(model.name, source.size, asked, target.name)
    path = folder / f"{name}{SUFFIX}"
    check_engine_target(path, overwrite=overwrite)
    profile = profile_of(source, options.profile)
    clock = Clock()
    data = _read_onnx(model.onnx, source)
    clock.say(f"parsing {model.onnx.name}")
    log = make_logger(trt)
    parsed = parse(trt, data, log, model.onnx)
    proof = precision_check.of_network(parsed.network)
    precision_check.check_precision(proof, asked, what=str(model.onnx))
    clock.say(proof.text(asked))
    config = _configured(trt, parsed, options)
    _add_profile(parsed, config, contract.inputs, profile, str(model.onnx))
    _check_outputs(parsed.network, contract.outputs, str(model.onnx))
    target.configure(config)
    plan = _build_plan(trt, parsed, config, clock)
    if plan is None:
        raise TecoError(
            f"{PRODUCTS[target.name]} {trt.__version__} could not build {model.onnx}: "
            f"{log.first_error() or 'it gave no reason'}",
            hint="export the ONNX file again with `teco export`, or report this",
        )
    built = target.inspect(plan)
    if built is not None:
        precision_check.check_precision(built, asked, what=f"the engine built from {model.onnx}")
    digest = hashlib.sha256(data).hexdigest()
    packages = ("teco", "onnx", "torch")
    manifest = EngineManifest(
        target=target.name,
        runtime_version=trt.__version__,
        os=platform.system(),
        arch=platform.machine(),
        size=source.size,
        profile=(words(profile[0]), words(profile[1]), words(profile[2])),
        precision_asked=asked,
        proof=proof,
        built=built,
        model=replace(source, sha256=digest),
        onnx_sha256=digest,
        versions={p: v for p in packages if (v := version_of(p))},
        sha256=hashlib.sha256(plan).hexdigest(),
        length=len(plan),
        **target.facts,
    )
    manifest.check()
    with Output(path) as output:
        with write_errors(path):
            output.part.write_bytes(plan)
        output.commit({manifest_path(path): manifest.to_json().encode()})
    target.finish(config)
    clock.say(f"{path.name}: {len(plan) / 2**20:.1f} MiB")
    return path


def _configured(trt: Bindings, parsed: Parsed, options: BuildOptions) -> Config:
    """What every engine is built with."""
    config = parsed.builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    return config


def _build_plan(trt: Bindings, parsed: Parsed, config: Config, clock: Clock) -> bytes | None:
    """The long part; None where the builder cannot do it. Ctrl-C ends it."""
    monitor = make_monitor(trt, clock)
    config.progress_monitor = monitor
    with no_collection():
        plan = parsed.builder.build_serialized_network(parsed.network, config)
    if monitor.interrupted is not None:
        raise monitor.interrupted
    return None if plan is None else to_bytes(plan)


def engine_name(model: str, size: str, asked: str, target: str) -> str:
    """``teco-x4-b3-c64-180x320-fp16-rtx``: what the name lacks is added, and the target."""
    known = model.split("-")
    return "-".join((model, *(x for x in (size, asked) if x not in known), target))


def make_monitor(trt: Bindings, clock: Clock) -> Any:
    """A progress monitor that says the two outer phases and, in long ones, the seconds.

    Callbacks come from several threads and cover about 1% of a long build's time, so there is no
    bar. Ctrl-C arrives in a callback: it is kept, and the build is told to stop.
    """

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.interrupted: BaseException | None = None
            self._depth: dict[str, int] = {}
            self._lock = threading.Lock()

        def _tell(self, name: str, begin: bool) -> None:
            try:
                clock.say(name) if begin else clock.remind(name)
            except BaseException as error:  # it must not pass through the library
                self.interrupted = self.interrupted or error

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self._lock:
                depth = self._depth.get(parent_phase, 0) + 1 if parent_phase else 0
                self._depth[phase_name] = depth
            if depth == 1:
                self._tell(phase_name.lower(), True)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._tell(phase_name.lower(), False)
            return self.interrupted is None

        def phase_finish(self, phase_name: str) -> None:
            with self._lock:
                self._depth.pop(phase_name, None)

    return Monitor()


class Clock:
    """Logs lines with the seconds since it was made."""

    def __init__(self) -> None:
        self._start, self._last = time.monotonic(), 0.0

    def say(self, text: str) -> None:
        self._last = time.monotonic()
        logger.info("%s (%.1f s)", text, self._last - self._start)

    def remind(self, text: str) -> None:
        if time.monotonic() - self._last >= _SPEAK_EVERY:
            self.say(text)


def check_engine_target(path: Path, *, overwrite: bool) -> None:
    """Refuse a place for an engine before any work.

    Raises:
        TecoError: as of :func:`teco.core.files.check_target`, or an ONNX file would lose its
            manifest to the engine's.
    """
    foreign = path.with_suffix(".onnx")
    if path.parent.is_dir() and foreign.exists():
        raise TecoError(
            f"{manifest_path(path)} would replace the manifest of {foreign.name}",
            hint="give the engine another name",
            exit_code=USAGE,
        )
    check_target(path, manifest_path(path), overwrite=overwrite)


def _read_onnx(path: Path, source: Manifest) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TecoError(f"{path} cannot be read: {error.strerror or error}") from error
    if source.sha256 and hashlib.sha256(data).hexdigest() != source.sha256:
        raise TecoError(
            f"{path} is not the file that its manifest describes",
            hint="export it again with `teco export`",
        )
    return data


def _check_outputs(network: Network, expected: tuple[str, ...], name: str) -> None:
    found = [network.get_output(n).name for n in range(network.num_outputs)]
    if set(expected) - set(found):
        raise TecoError(
            f"{name} has outputs {', '.join(found)}, its manifest says {', '.join(expected)}",
            hint="export it again with `teco export`",
        )


def _add_profile(
    parsed: Parsed,
    config: Config,
    ports: dict[str, tuple[str, ...]],
    profile: Profile,
    name: str,
) -> None:
    """Give a dynamic network its sizes; refuse one whose ports are not those of its contract."""
    network, dynamic = parsed.network, False
    record = parsed.builder.create_optimization_profile()
    inputs = [network.get_input(n) for n in range(network.num_inputs)]
    if sorted(t.name for t in inputs) != sorted(ports):
        raise TecoError(
            f"{name} has inputs {', '.join(t.name for t in inputs)}, its manifest says "
            f"{', '.join(ports)}",
            hint="export it again with `teco export`",
        )
    for tensor in inputs:
        shapes = [shape_of(ports[tensor.name], h, w) for h, w in profile]
        found = tuple(int(x) for x in tensor.shape)
        if len(found) != len(shapes[0]) or any(
            have not in (-1, low, high)
            for have, low, high in zip(found, shapes[0], shapes[2], strict=True)
        ):
            raise TecoError(
                f"input {tensor.name} of {name} is {list(found)}, its manifest says "
                f"{list(shapes[1])}",
                hint="export it again with `teco export`",
            )
        if -1 in found:
            dynamic = True
            record.set_shape(tensor.name, *shapes)
    if dynamic and config.add_optimization_profile(record) < 0:
        told = ", ".join(map(words, profile))
        raise TecoError(f"the builder refused the sizes {told}", exit_code=USAGE)
