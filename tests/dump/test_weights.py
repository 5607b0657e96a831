"""Constants of a dump lie in one file, once, and models refer to them."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tf_opt import errors
from tf_opt.dump.weights import DumpedWeight, DumpedWeights, WeightFile, model_with_weights, model_without_weights


def model(shapes):
    """Returns the sum of an input and of weights of given shapes, all of which are graph inputs."""
    values = [helper.make_tensor_value_info("input_0", TensorProto.FLOAT, [None])]
    values += [helper.make_tensor_value_info(f"weight_{i}", TensorProto.FLOAT, each) for i, each in enumerate(shapes)]
    node = helper.make_node("Sum", [value.name for value in values], ["output_0"])
    output = helper.make_tensor_value_info("output_0", TensorProto.FLOAT, [None])
    return helper.make_model(helper.make_graph([node], "segment", values, [output]), ir_version=8)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["float32", "int8", "bool", "bfloat16", "int64"]),
            st.lists(st.integers(0, 5), max_size=3),
            st.integers(0, 2),
        ),
        max_size=6,
    )
)
def test_what_was_written_is_read(tmp_path_factory, described):
    folder = tmp_path_factory.mktemp("weights")
    file = WeightFile(folder)
    arrays = {}
    for number, (dtype, shape, seed) in enumerate(described):
        array = np.random.default_rng(seed).integers(0, 2, shape).astype(np.dtype(dtype))
        assert file.add(array, dtype, f"w{number}") == f"w{number}"
        arrays[f"w{number}"] = array
    file.write_index()
    read = DumpedWeights(folder)
    assert set(read) == set(arrays)
    for name, array in arrays.items():
        assert read[name].offset % 4096 == 0
        assert read.array(name).dtype == array.dtype
        np.testing.assert_array_equal(read.array(name), array)


def test_same_bytes_are_written_once(tmp_path):
    file = WeightFile(tmp_path)
    array = np.arange(1000, dtype=np.float32)
    file.add(array, "float32", "one")
    first = file.add(array.reshape(10, 100), "float32")
    assert first == file.add(array.reshape(10, 100), "float32")
    assert first.startswith("derived/")
    assert file["one"].offset == file[first].offset
    assert file[first].shape == (10, 100)
    assert file.size_bytes == 4000


def test_different_shapes_of_the_same_bytes_are_different_weights(tmp_path):
    file = WeightFile(tmp_path)
    array = np.arange(1000, dtype=np.float32)
    names = {
        file.add(array, "float32"),
        file.add(array.reshape(10, 100), "float32"),
        file.add(array.view("i4"), "int32"),
    }
    assert len(names) == 3
    assert file.size_bytes == 4000


def test_places_beyond_two_gigabytes_are_in_the_model():
    places = [DumpedWeight(dtype="float32", shape=(3,), offset=5 * 2**30, length=12)]
    proto = onnx.load_model_from_string(model_with_weights(model([[3]]), places))
    assert [value.name for value in proto.graph.input] == ["input_0"]
    (tensor,) = proto.graph.initializer
    entries = {entry.key: entry.value for entry in tensor.external_data}
    assert entries == {"location": "weights.data", "offset": str(5 * 2**30), "length": "12"}


def test_weights_become_inputs_again_in_their_order(tmp_path):
    shapes = [[3]] * 12  # weight_10 comes behind weight_9, not behind weight_1.
    places = [DumpedWeight(dtype="float32", shape=(3,), offset=0, length=12)] * 12
    path = tmp_path / "model.onnx"
    path.write_bytes(model_with_weights(model(shapes), places))
    again = onnx.load_model_from_string(model_without_weights(path))
    assert [value.name for value in again.graph.input] == ["input_0", *(f"weight_{i}" for i in range(12))]
    assert not again.graph.initializer


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(errors.DumpError, match=r"missing\.onnx cannot be read"):
        model_without_weights(tmp_path / "missing.onnx")
    with pytest.raises(errors.DumpError, match=r"weights\.json"):
        DumpedWeights(tmp_path)
    file = WeightFile(tmp_path)
    file.add(np.ones(3, ml_dtypes.bfloat16), "bfloat16", "kernel")
    file.write_index()
    with pytest.raises(errors.DumpError, match=r"no weight 'kernal'\. Did you mean 'kernel'"):
        DumpedWeights(tmp_path).array("kernal")
