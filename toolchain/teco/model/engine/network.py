"""An ONNX file as a network of TensorRT's or TensorRT-RTX's own parser."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from teco.core.errors import TecoError
from teco.core.garbage import no_collection
from teco.model.engine.api import Bindings, Builder, Network, OnnxParser


@dataclass(frozen=True)
class Parsed:
    """A parsed network. The parser owns the weights and must live as long as the network."""

    builder: Builder
    network: Network
    parser: OnnxParser


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


def _sentence(text: str) -> str:
    """A library's message without line breaks, source positions and a final stop."""
    text = re.sub(r"\s*In \S+ at \S+:\d+", "", " ".join(text.split()))
    return text[:300].rstrip(". (")
