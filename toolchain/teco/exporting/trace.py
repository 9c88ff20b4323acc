"""A network's deploy form, and the ONNX graph that PyTorch traces of it."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Generator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from teco.core.errors import TecoError
from teco.core.garbage import no_collection
from teco.model.contract import StreamContract
from teco.runtimes.ports import shape_of
from teco.verification.parity import DYNAMIC_SIZES
from teco_models.variant import MIN_SIZE

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import nn

    from teco.exporting.options import ExportOptions
    from teco_models.checkpoint import Weights

OPSET = 18
"""One whose GridSample mode is still called "bilinear", as up to 19; TensorRT's importer silently
takes NEAREST for opset 20's "linear" (TensorRT#4646). Browsers get 17
(:mod:`teco.exporting.web_graph`), int8 engines 19 (:mod:`teco.exporting.quantisation.qdq`)."""

IR_VERSION = 8
"""Of the file. torch.onnx writes 10, which ONNX Runtime 1.17 refuses (it reads up to 9) though it
runs every operator of the graph; 8 came with opset 18 (onnx's versioning table)."""


@dataclass(frozen=True)
class DeployForm:
    """What is traced: the step of a network in the form that suits a runtime.

    Attributes:
        step: the network between its ports.
        contract: names and shapes of the ports, and how the step is driven.
        rewrites: exact rewrites that were used, as a manifest names them.
    """

    step: nn.Module
    contract: StreamContract
    rewrites: dict[str, bool]

    @classmethod
    def of(cls, weights: Weights, options: ExportOptions) -> DeployForm:
        """The form that the options ask for; for int8 the one that is quantised later."""
        from teco_models.checkpoint import build_any
        from teco_models.deploy.form import deploy_form, rewrites_for
        from teco_models.deploy.ports import with_ports

        rewrites = rewrites_for(
            weights.variant, options.target, options.without, int8=options.precision == "int8"
        )
        step = with_ports(deploy_form(build_any(weights), rewrites, options.inner), options.io)
        contract = StreamContract.of(weights.variant, options.io)
        return cls(step, contract, asdict(rewrites))

    def graph(self, size: tuple[int, int] | None) -> ModelProto:
        """The form as an ONNX model, see :func:`trace`."""
        return trace(self.step, self.contract, size)


def trace(step: nn.Module, contract: StreamContract, size: tuple[int, int] | None) -> ModelProto:
    """A step as an ONNX model.

    Args:
        step: the deploy form between its ports; its arguments are the contract's inputs in order.
        contract: names and shapes.
        size: static (h, w), or None for symbolic h and w, which the state's shapes follow.

    Raises:
        TecoError: PyTorch wrote what other importers misread.
    """
    import torch

    # 45 x 75 as the example of a dynamic size: no multiple of 8, so the mirroring is traced.
    h, w = size or DYNAMIC_SIZES[0]
    ports = contract.inputs
    h, w = (-(-side // contract.multiple_of) * contract.multiple_of for side in (h, w))
    example = tuple(
        torch.zeros(shape_of(shape, h, w), dtype=getattr(torch, contract.dtypes[name]))
        for name, shape in ports.items()
    )
    shapes: Any = None
    if size is None:
        dims = _dimensions(contract)
        shapes = tuple({n: dims[x] for n, x in enumerate(s) if x in dims} for s in ports.values())
    with _without_exporters_chatter(), no_collection():
        program = torch.onnx.export(
            step.requires_grad_(False),
            example,
            dynamo=True,
            opset_version=OPSET,
            external_data=False,
            dynamic_shapes=shapes,
            input_names=list(ports),
            output_names=list(contract.outputs),
            verbose=False,
        )
    assert program is not None
    model: ModelProto = program.model_proto
    model.ir_version = IR_VERSION
    _check_graph(model)
    return model


def _dimensions(contract: StreamContract) -> dict[str, Any]:
    """The symbolic extents by the expressions of the contract's shapes."""
    from torch.export import Dim

    sides = {name: Dim(name, min=MIN_SIZE) for name in "hw"}
    halves: dict[str, Any] = {}
    if contract.multiple_of == 2:
        # PyTorch knows multiples of a size, and no halves.
        halves = {f"{n}/2": Dim(f"half_{n}", min=MIN_SIZE // 2) for n in sides}
        sides = {name: 2 * halves[f"{name}/2"] for name in sides}
    s = contract.scale
    return {**halves, **sides, **{f"{s}*{name}": s * dim for name, dim in sides.items()}}


def forget_origins(model: ModelProto) -> None:
    """Remove source paths, stack traces and every other note of the machine that traced it."""
    model.doc_string = ""
    del model.metadata_props[:]
    graph = model.graph
    graph.doc_string = ""
    del graph.metadata_props[:]
    for item in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        item.doc_string = ""
        del item.metadata_props[:]


def _check_graph(model: ModelProto) -> None:
    """Raise TecoError for what other importers misread."""
    import onnx

    opset = {x.domain: x.version for x in model.opset_import}
    if opset.get("", 0) != OPSET:
        raise TecoError(
            f"torch.onnx wrote opset {opset.get('')}, asked for {OPSET}",
            hint="install the versions of torch and onnxscript that pyproject.toml names",
        )
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "GridSample" and attribute.name == "mode":
                mode = onnx.helper.get_attribute_value(attribute).decode()
                if mode != "bilinear":
                    raise TecoError(f"torch.onnx wrote GridSample mode {mode!r}, not bilinear")


@contextlib.contextmanager
def _without_exporters_chatter() -> Generator[None]:
    """torch.onnx reports its progress to stdout and deprecations of its own insides as warnings."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
