"""ONNX file to engine, the part that TensorRT-RTX and TensorRT 10 and 11 share.

Networks are strongly typed on all of them: precision is what the ONNX file's tensor types and Q/DQ
nodes say, and no builder flag, calibrator or layer setting could change it. TensorRT 11 knows no
other way; on TensorRT 10 it behaves the same.

TF32, which both allow by default, is switched off: it would be a lower precision under the name of
float32. ONNX Runtime's CUDA provider is treated the same here.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from teco import artifact
from teco.artifact import Manifest, Model, manifest_path
from teco.engines import precision
from teco.engines.api import PRODUCTS, Bindings, Builder, Config, Network, OnnxParser, to_bytes
from teco.engines.manifest import EngineManifest
from teco.errors import USAGE, TecoError
from teco.garbage import no_collection
from teco.machine import version_of
from teco.runtimes.ports import shape_of

Say = Callable[[str], None]
Size = tuple[int, int]

SUFFIX = ".plan"

DYNAMIC_PROFILE: tuple[Size | None, Size, Size] = (None, (180, 320), (540, 960))
"""LR (h, w) of a dynamic engine: from the contract's minimum, fastest at 180x320 (the size of the
published comparisons; 720p out), up to 540x960 (2160p out)."""

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
    profile: tuple[Size, Size, Size] | None = None
    workspace_mib: int | None = None
    name: str | None = None


@dataclass(frozen=True)
class Parsed:
    """A parsed network. The parser owns the weights and must live as long as the network."""

    builder: Builder
    network: Network
    parser: OnnxParser


@dataclass(frozen=True, kw_only=True)
class Order:
    """What distinguishes one kind of engine in the shared build.

    Attributes:
        target: "rtx" or "tensorrt".
        configure: sets what only it has.
        facts: fields of :class:`EngineManifest` that only its builder knows.
        inspect: looks at the finished plan and gives the precision of the built layers; it may
            raise to refuse it.
        finish: called when the plan has its name, with the configuration it was built with.
    """

    target: str
    configure: Callable[[Config], None]
    facts: dict[str, Any] = field(default_factory=dict)
    inspect: Callable[[bytes], precision.Proof | None] = lambda _: None
    finish: Callable[[Config], None] = lambda _: None


def build(
    trt: Bindings,
    model: Model,
    folder: Path,
    options: BuildOptions,
    order: Order,
    *,
    say: Say,
    overwrite: bool,
) -> Path:
    """Parse, prove, build, then name.

    Args:
        trt: the bindings.
        model: with an ONNX file and its manifest.
        folder: where the ``.plan`` and its ``.json`` go; must exist.
        options: what to build.
        order: what is particular to the target.
        say: told each phase with the seconds passed, one line each.
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
    name = options.name or engine_name(model.name, source.size, asked, order.target)
    path = folder / f"{name}{SUFFIX}"
    check_target(path, overwrite)
    profile = profile_of(source, options.profile)
    clock = _Clock(say)
    data = _read_onnx(model.onnx, source)

    clock.say(f"parsing {model.onnx.name}")
    log = make_logger(trt)
    parsed = parse(trt, data, log, model.onnx)
    proof = precision.of_network(parsed.network)
    precision.check_label(proof, asked, what=str(model.onnx))
    clock.say(proof.text(asked))

    config = parsed.builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    _add_profile(parsed, config, contract.inputs, profile, str(model.onnx))
    _check_outputs(parsed.network, contract.outputs, str(model.onnx))
    order.configure(config)
    monitor = make_monitor(trt, clock)
    config.progress_monitor = monitor
    with no_collection():
        plan = parsed.builder.build_serialized_network(parsed.network, config)
    if monitor.interrupted is not None:
        raise monitor.interrupted
    if plan is None:
        raise TecoError(
            f"{PRODUCTS[order.target]} {trt.__version__} could not build {model.onnx}: "
            f"{log.first_error() or 'it gave no reason'}",
            hint="export the ONNX file again with `teco export`, or report this",
        )
    content = to_bytes(plan)
    built = order.inspect(content)
    if built is not None:
        precision.check_label(built, asked, what=f"the engine built from {model.onnx}")
    digest = hashlib.sha256(data).hexdigest()
    packages = ("teco", "onnx", "torch")
    manifest = EngineManifest(
        target=order.target,
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
        sha256=hashlib.sha256(content).hexdigest(),
        length=len(content),
        **order.facts,
    )
    manifest.check()
    _write(path, content, manifest.to_json().encode())
    order.finish(config)
    clock.say(f"{path.name}: {len(content) / 2**20:.1f} MiB")
    return path


def words(size: Size) -> str:
    """(180, 320) -> "180x320"."""
    return f"{size[0]}x{size[1]}"


def engine_name(model: str, size: str, asked: str, target: str) -> str:
    """``teco-x4-b3-c64-180x320-fp16-rtx``: what the name lacks is added, and the target."""
    known = model.split("-")
    return "-".join((model, *(x for x in (size, asked) if x not in known), target))


def profile_of(source: Manifest, asked: tuple[Size, Size, Size] | None) -> tuple[Size, Size, Size]:
    """Least, usual and greatest LR (h, w) of an engine.

    Args:
        source: manifest of the ONNX file.
        asked: by the user; None for the default.

    Raises:
        TecoError: sizes for a static file, sizes that do not grow, or too small ones.
    """
    if source.size != "dynamic":
        h, w = (int(x) for x in source.size.split("x"))
        if asked is not None and set(asked) != {(h, w)}:
            raise TecoError(
                f"the ONNX file is for {source.size} frames only, the sizes asked for are "
                f"{', '.join(map(words, asked))}",
                hint="export one with --size dynamic",
                exit_code=USAGE,
            )
        return (h, w), (h, w), (h, w)
    least = source.contract.minimum
    low, usual, high = asked or (DYNAMIC_PROFILE[0] or (least, least), *DYNAMIC_PROFILE[1:])
    told = ", ".join(map(words, (low, usual, high)))
    if min(low) < least:
        raise TecoError(
            f"the smallest frame of this model is {least}x{least}, the sizes asked for are {told}",
            exit_code=USAGE,
        )
    if not all(a <= b <= c for a, b, c in zip(low, usual, high, strict=True)):
        raise TecoError(
            f"the sizes asked for are {told}; expected least, usual and greatest, each no smaller "
            "than the one before in height and width",
            exit_code=USAGE,
        )
    return low, usual, high


def parse(trt: Bindings, data: bytes, log: Any, path: Path) -> Parsed:
    """An ONNX model as a strongly typed network.

    Args:
        trt: the bindings.
        data: the ONNX file's bytes.
        log: from :func:`make_logger`.
        path: where the file lies, for messages and for weights that lie beside it.

    Raises:
        TecoError: it cannot be parsed; the parser's first error in one sentence.
    """
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    with no_collection():
        builder = trt.Builder(log)
        network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = trt.OnnxParser(network, log)
    with no_collection():
        parsed = parser.parse(data, str(path))
    if not parsed:
        errors = [parser.get_error(n) for n in range(parser.num_errors)]
        where = told = ""
        if errors:
            first = errors[0]
            if first.node_operator():
                where = f", {first.node_operator()} node {first.node_name()!r}"
            told = _sentence(first.desc())
        raise TecoError(
            f"{path} cannot be parsed{where}: {told or log.first_error() or 'no reason given'}",
            hint="export it again with `teco export`",
        )
    return Parsed(builder, network, parser)


def make_logger(trt: Bindings) -> Any:
    """A logger of the bindings' own kind that keeps warnings and errors and prints nothing."""

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[tuple[str, str]] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity.name in ("INTERNAL_ERROR", "ERROR", "WARNING"):
                self.lines.append((severity.name, msg))

        def first_error(self) -> str:
            errors = (text for kind, text in self.lines if kind != "WARNING")
            return _sentence(next(errors, ""))

    return Log()


def make_monitor(trt: Bindings, clock: _Clock) -> Any:
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


class _Clock:
    """Says lines with the seconds since it was made."""

    def __init__(self, say: Say) -> None:
        self._say, self._start, self._last = say, time.monotonic(), 0.0

    def say(self, text: str) -> None:
        self._last = time.monotonic()
        self._say(f"{text} ({self._last - self._start:.1f} s)")

    def remind(self, text: str) -> None:
        if time.monotonic() - self._last >= _SPEAK_EVERY:
            self.say(text)


def check_target(path: Path, overwrite: bool) -> None:
    """As the same of teco.artifact; and no ONNX file loses its manifest to an engine."""
    foreign = path.with_suffix(".onnx")
    if path.parent.is_dir() and foreign.exists():
        raise TecoError(
            f"{manifest_path(path)} would replace the manifest of {foreign.name}",
            hint="give the engine another name",
            exit_code=USAGE,
        )
    artifact.check_target(path, overwrite)


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
    ports: dict[str, tuple[str, str, str, str]],
    profile: tuple[Size, Size, Size],
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


def _write(path: Path, plan: bytes, manifest: bytes) -> None:
    """Both files in full under other names first, so that a full disk leaves neither."""
    beside = manifest_path(path)
    parts = {p: p.with_name(f".{p.name}.{os.getpid()}.part") for p in (path, beside)}
    try:
        for target, data in ((path, plan), (beside, manifest)):
            with parts[target].open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        # An older manifest goes first: at no moment does one describe another file.
        beside.unlink(missing_ok=True)
        parts[path].replace(path)
        parts[beside].replace(beside)
    except OSError as error:
        raise TecoError(f"{path} could not be written: {error.strerror or error}") from error
    finally:
        for part in parts.values():
            with suppress(OSError):
                part.unlink(missing_ok=True)


def _sentence(text: str) -> str:
    """A library's message without line breaks, source positions and a final stop."""
    text = re.sub(r"\s*In \S+ at \S+:\d+", "", " ".join(text.split()))
    return text[:300].rstrip(". (")
