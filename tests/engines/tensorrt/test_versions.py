"""What is different in 8.5 and 8.6, which no simulator plays: shown on objects that only write down."""

from __future__ import annotations

import enum
import sys
import types
from unittest import mock

import pytest

from tests.simulators.tensorrt.fixture import simulated_tensorrt
from tf_opt.engines.tensorrt import TensorRTSettings, versions
from tf_opt.errors import EngineBuildError


class LayerType(enum.IntEnum):
    CONSTANT, MATRIX_MULTIPLY, QUANTIZE, DEQUANTIZE, SHAPE = range(5)


class DataType(enum.IntEnum):
    FLOAT, HALF, INT8, INT32 = range(4)


class BuilderFlag(enum.IntEnum):
    FP16, INT8, TF32, OBEY_PRECISION_CONSTRAINTS = range(4)


class Layer:
    def __init__(self, kind, dtype, name, reads=()):
        self.type, self.num_outputs, self.num_inputs = kind, 1, len(reads)
        self.precision = None
        self._output = types.SimpleNamespace(dtype=dtype, name=name)
        self._inputs = [types.SimpleNamespace(name=each) for each in reads]

    def get_output(self, index):
        return self._output

    def get_input(self, index):
        return self._inputs[index]


class Network:
    def __init__(self, *layers):
        self.layers, self.num_layers = layers, len(layers)

    def get_layer(self, index):
        return self.layers[index]


class Config:
    def __init__(self):
        self.flags = {BuilderFlag.TF32}

    def set_flag(self, flag):
        self.flags.add(flag)

    def clear_flag(self, flag):
        self.flags.remove(flag)


@pytest.fixture
def version_8(monkeypatch):
    module = types.ModuleType("tensorrt")
    module.__version__ = "8.5.3.1"
    module.BuilderFlag, module.LayerType, module.DataType = BuilderFlag, LayerType, DataType
    module.NetworkDefinitionCreationFlag = enum.IntEnum("NetworkDefinitionCreationFlag", {"EXPLICIT_BATCH": 0})
    with simulated_tensorrt("10.16"):
        monkeypatch.setitem(sys.modules, "tensorrt", module)
        yield module
        monkeypatch.undo()


def test_half_of_the_model_is_obeyed(version_8):
    config = Config()
    half = Layer(LayerType.MATRIX_MULTIPLY, DataType.HALF, "a")
    full = Layer(LayerType.MATRIX_MULTIPLY, DataType.FLOAT, "b")
    constant, shape = Layer(LayerType.CONSTANT, DataType.HALF, "c"), Layer(LayerType.SHAPE, DataType.INT32, "d")
    versions.set_builder_flags(config, Network(half, full, constant, shape), TensorRTSettings())
    assert config.flags == {BuilderFlag.FP16, BuilderFlag.OBEY_PRECISION_CONSTRAINTS}
    assert (half.precision, full.precision) == (DataType.HALF, DataType.FLOAT)
    assert (constant.precision, shape.precision) == (None, None)


def test_full_precision_sets_nothing(version_8):
    config, layer = Config(), Layer(LayerType.MATRIX_MULTIPLY, DataType.FLOAT, "a")
    versions.set_builder_flags(config, Network(layer), TensorRTSettings(tf32=True))
    assert config.flags == {BuilderFlag.TF32}
    assert layer.precision is None


def test_quantized_products_stay_free_to_be_int8(version_8):
    config = Config()
    quantize = Layer(LayerType.QUANTIZE, DataType.INT8, "q", ["x"])
    dequantize = Layer(LayerType.DEQUANTIZE, DataType.HALF, "dq", ["q"])
    product = Layer(LayerType.MATRIX_MULTIPLY, DataType.HALF, "y", ["dq"])
    rest = Layer(LayerType.MATRIX_MULTIPLY, DataType.HALF, "z", ["y"])
    versions.set_builder_flags(config, Network(quantize, dequantize, product, rest), TensorRTSettings())
    assert config.flags == {BuilderFlag.FP16, BuilderFlag.OBEY_PRECISION_CONSTRAINTS, BuilderFlag.INT8}
    assert [layer.precision for layer in (quantize, dequantize, product)] == [None] * 3
    assert rest.precision == DataType.HALF


def test_settings_that_version_8_5_lacks_are_named(version_8):
    for setting in ("version_compatible", "strip_weights"):
        with pytest.raises(EngineBuildError, match=rf"8\.5\.3\.1.*{setting}"):
            versions.set_builder_flags(Config(), Network(), TensorRTSettings(**{setting: True}))


def test_before_8_6_one_context(version_8):
    assert versions.maximum_contexts(TensorRTSettings(maximum_contexts=5)) == 1
    version_8.__version__ = "8.6.0"
    assert versions.maximum_contexts(TensorRTSettings(maximum_contexts=5)) == 5


def test_kind_of_network(version_8, monkeypatch):
    builder = mock.Mock()
    versions.create_network(builder)
    builder.create_network.assert_called_once_with(1)
    assert not versions.has_progress_monitor()


@pytest.mark.parametrize("version", ["10.0", "10.16", "11.4"])
def test_networks_are_strongly_typed_from_10_on(version):
    with simulated_tensorrt(version) as simulation:
        builder = mock.Mock()
        versions.create_network(builder)
        flag = simulation.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED
        builder.create_network.assert_called_once_with(1 << int(flag))


def test_errors_without_names_are_found_by_index():
    old = types.SimpleNamespace(desc=lambda: "no importer", node=lambda: 1)
    outside = types.SimpleNamespace(desc=lambda: "a general problem", node=lambda: -1)
    said = "node 1 (operator unknown): no importer"
    assert versions.error_nodes([old, outside, old], ["first", "second"]) == {"second": [said, said]}
    assert versions.describe_error(old) == "node 1 (operator unknown): no importer"
    assert versions.describe_error(outside) == "a general problem"
