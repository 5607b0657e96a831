"""Numbers of tokens and places of tokens, for every kind of mask."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from tests.passes.onnx.pass_checks import model_of, session_of
from tests.passes.onnx.token_checks import masks
from tf_opt.passes.onnx.skip_padding_index import GraphWriter, TokenIndex
from tf_opt.passes.onnx.token_layout import token_layout

SHAPES = ((1, 5), (3, 4), (4, 1), (0, 3), (2, 0))


def outputs_of(mask: np.ndarray[Any, Any], opset: int = 17) -> dict[str, np.ndarray[Any, Any]]:
    """Returns the values of an index's tensors for a mask."""
    model = model_of("g (float[A, T, 8] x, int32[B, S] mask) => (float[A, T, 8] y) { y = Relu(x) }", opset=opset)
    layout = token_layout(model, "mask")
    index = TokenIndex(GraphWriter(model.graph), layout, [model.graph.inputs[0]])
    wanted = {
        "sizes": index.sizes,
        "real": index.real,
        "places": index.places,
        "index": index.index,
        "flat_index": index.flat_index,
    }
    model.graph.sort()
    proto = ir.serde.serialize_model(model)
    for value in wanted.values():
        dtype = onnx.TensorProto.BOOL if value is index.real else onnx.TensorProto.INT64
        rank = 1 if value in (index.sizes, index.flat_index) else 2
        dims = [f"{value.name}_{axis}" for axis in range(rank)]
        proto.graph.output.append(onnx.helper.make_tensor_value_info(str(value.name), dtype, dims))
    session = session_of(ir.serde.deserialize_model(proto))
    feed = {"x": np.zeros((*mask.shape, 8), np.float32), "mask": mask.astype(np.int32)}
    results = session.run([str(value.name) for value in wanted.values()], feed)
    return dict(zip(wanted, results, strict=True))


def test_tokens_in_order():
    found = outputs_of(np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 1]]))
    assert found["sizes"].tolist() == [3, 4]
    assert found["places"].tolist() == [[0, 0, 2, 2], [0, 1, 1, 3]]
    # Padded positions take a token of their own row, where it has one.
    assert found["index"].tolist() == [[0, 1, 1, 1], [2, 2, 2, 2], [2, 2, 2, 3]]


def test_every_mask():
    for shape in SHAPES:
        for kind, mask in masks(*shape) if 0 not in shape else [("empty", np.ones(shape, np.int64))]:
            for opset in (17, 18):
                found = outputs_of(mask, opset)
                rows, positions = np.nonzero(mask)
                if not len(rows) and mask.size:
                    rows, positions = np.zeros((2, 1), np.int64)
                np.testing.assert_array_equal(found["places"], [rows, positions], err_msg=kind)
                np.testing.assert_array_equal(found["real"], mask == 1)
                np.testing.assert_array_equal(found["flat_index"], found["index"].ravel())
                assert found["index"].shape == mask.shape
                for row, position in zip(*np.nonzero(mask), strict=True):
                    number = found["index"][row, position]
                    assert (rows[number], positions[number]) == (row, position), kind
                for row in np.nonzero(mask.any(axis=1))[0]:
                    assert set(rows[found["index"][row]]) == {row}, "a padded position takes a token of another row"
                assert mask.size == 0 or (0 <= found["index"].min() <= found["index"].max() < max(1, mask.sum()))


def test_sizes_are_those_that_broadcasting_gives():
    model = model_of("g (float[A, T, 8] x, bool[B, S] mask) => (float[A, T, 8] y) { y = Relu(x) }")
    layout = token_layout(model, "mask")
    index = TokenIndex(GraphWriter(model.graph), layout, [model.graph.inputs[0]])
    name = str(index.index.name)
    model.graph.sort()
    proto = ir.serde.serialize_model(model)
    proto.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, ["P", "Q"]))
    feed = {"x": np.zeros((2, 3, 8), np.float32), "mask": np.array([[True, False, True]])}
    (found,) = session_of(ir.serde.deserialize_model(proto)).run([name], feed)
    assert found.tolist() == [[0, 0, 1], [2, 2, 3]]


def test_names_are_unique():
    model = model_of("g (float[B, S, 8] x, bool[B, S] mask) => (float[B, S, 8] y) { y = Relu(x) }")
    writer = GraphWriter(model.graph)
    assert [writer.unused("y"), writer.unused("z"), writer.unused("z"), writer.unused("z")] == [
        "y_1",
        "z",
        "z_1",
        "z_2",
    ]
    assert writer.integers([1, 2]) is writer.integers([1, 2])
    assert writer.integers([1]) is not writer.integers(1)
