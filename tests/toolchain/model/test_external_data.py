"""A model from elsewhere: what it names outside itself is known before a runtime opens it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx
import pytest

from teco.core.errors import TecoError
from teco.core.files import sha256_of
from teco.model.external_data import external_files
from teco.model.opening import open_model
from teco_models import zoo

LIVE = zoo.Entry("live")


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """live.onnx with what lies beside it."""
    for path in (LIVE.onnx, LIVE.onnx.with_suffix(".json"), LIVE.weights):
        shutil.copy(path, tmp_path)
    return tmp_path / "live.onnx"


def redirected(path: Path, location: str) -> None:
    """Let the graph read its weights elsewhere, and the manifest agree with the graph."""
    model = onnx.load(str(path), load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(model.SerializeToString())
    beside = path.with_suffix(".json")
    data = json.loads(beside.read_text())
    beside.write_text(json.dumps({**data, "sha256": sha256_of(path)}))


def test_shipped_files_name_their_weights_alone() -> None:
    for entry in zoo.entries():
        for path in entry.folder.glob("*.onnx"):
            assert external_files(path) == {entry.weights.name}


@pytest.mark.parametrize("where", ["graph", "constant", "branch", "function"])
def test_weights_are_found_wherever_a_graph_may_hold_them(where, tmp_path) -> None:
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[4])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="far/away.bin")
    constant = onnx.helper.make_node("Constant", [], ["c"], value=tensor)
    graph = onnx.helper.make_graph([], "g", [], [])
    functions = []
    if where == "graph":
        graph.initializer.append(tensor)
    elif where == "constant":
        graph.node.append(constant)
    elif where == "branch":
        inner = onnx.helper.make_graph([constant], "inner", [], [])
        node = onnx.helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)
        graph.node.append(node)
    else:
        functions.append(onnx.helper.make_function("d", "f", [], ["c"], [constant], graph_opset()))
    model = onnx.helper.make_model(graph, functions=functions)
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    assert external_files(tmp_path / "a.onnx") == {"far/away.bin"}


def graph_opset() -> list[onnx.OperatorSetIdProto]:
    return [onnx.helper.make_opsetid("", 18)]


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "other.safetensors"])
def test_weights_from_elsewhere_are_refused(copied, location) -> None:
    redirected(copied, location)
    with pytest.raises(TecoError, match="which its manifest does not name"):
        open_model(str(copied))
    copied.with_suffix(".json").unlink()
    with pytest.raises(TecoError, match="no manifest beside it"):
        open_model(str(copied))


@pytest.mark.parametrize(
    "name",
    ["sr.vpy", "libonnxruntime.so.9", "../up.safetensors", "a\nb.safetensors", ".safetensors"],
)
def test_a_model_brings_weights_and_nothing_else(copied, name) -> None:
    """What a manifest names is copied beside scripts, and libraries are loaded from there."""
    beside = copied.with_suffix(".json")
    data = json.loads(beside.read_text())
    data["data_sha256"][name] = "0" * 64
    beside.write_text(json.dumps(data))
    with pytest.raises(TecoError, match=r"expected a \.safetensors file beside it"):
        open_model(str(copied))


@pytest.mark.parametrize("size", [0, 1, 40, 1000])
def test_what_is_cut_off_is_said(size, tmp_path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(LIVE.onnx.read_bytes()[:size])
    with pytest.raises(TecoError, match="cannot be loaded as ONNX"):
        external_files(path)
