"""The simulated ONNX parser."""

from __future__ import annotations

import ctypes
import os
from typing import Any

import onnx

from tests.simulators.tensorrt import onnx_rules
from tests.simulators.tensorrt.bindings_base import Bound, Flagged, as_buffer, versions
from tests.simulators.tensorrt.library import Owner
from tests.simulators.tensorrt.onnx_rules import Refusal
from tests.simulators.tensorrt.program import without_double

OPSET_LIMITS = {10: (9, 20), 11: (9, 24)}


class ParserError(Bound):
    """Why a model was refused."""

    def __init__(self, refusal: Refusal) -> None:
        self._refusal = refusal

    def code(self) -> Any:
        return getattr(self.library.module.ErrorCode, self._refusal.code)

    def desc(self) -> str:
        return self._refusal.sentence

    def file(self) -> str:
        return "simulator"

    def func(self) -> str:
        return "parse"

    def line(self) -> int:
        return 0

    def node(self) -> int:
        return self._refusal.node

    def node_name(self) -> str:
        return self._refusal.name

    def node_operator(self) -> str:
        return self._refusal.operator

    def local_function_stack(self) -> list[str]:
        return []

    def local_function_stack_size(self) -> int:
        return 0

    def __str__(self) -> str:
        where = f"In node {self.node()} with name: {self.node_name()} and operator: {self.node_operator()}"
        return f"{where} ({self.func()}): {self.code()}: {self.desc()}"

    __repr__ = __str__


class OnnxParser(Owner, Flagged):
    """Fills a network from an ONNX model."""

    def __init__(self, network: Any, logger: Any) -> None:
        if not isinstance(network, self.library.module.INetworkDefinition):
            raise TypeError("OnnxParser(): incompatible constructor arguments; expected a network")
        self.library.check_logger(logger, "OnnxParser()")
        self._network = network
        self._logger = logger
        self._errors: list[Refusal] = []
        self._flags = 0
        self._subgraphs: list[tuple[list[int], bool]] = []
        self._loaded: onnx.ModelProto | None = None

    def parse(self, model: Any, path: str | None = None) -> bool:
        return self._parse(self._read(as_buffer(model, "parse()"), path))

    def parse_from_file(self, model: str) -> bool:
        with open(model, "rb") as file:
            return self._parse(self._read(file.read(), model))

    @versions(since=(10, 16))
    def load_model_proto(self, model: Any, path: str | None = None) -> bool:
        self._loaded = self._read(as_buffer(model, "load_model_proto()"), path, external=False)
        return self._loaded is not None

    @versions(since=(10, 16))
    def load_initializer(self, name: str, data: int, size: int) -> bool:
        if self._loaded is None:
            return self._refuse(Refusal("INVALID_VALUE", "load_initializer() before load_model_proto()"))
        self.library.driver.memory.check_host(data, size, f"load_initializer({name!r})")
        return load_initializer(self._loaded, name, ctypes.string_at(data, size)) or self._refuse(
            Refusal("INVALID_VALUE", f"the model has no initializer {name!r} of {size} bytes with external data")
        )

    @versions(since=(10, 16))
    def parse_model_proto(self) -> bool:
        return self._parse(self._loaded)

    @versions(until=(11, 0))
    def supports_model(self, model: Any, path: str | None = None) -> tuple[bool, list[tuple[list[int], bool]]]:
        return self._support(self._read(as_buffer(model, "supports_model()"), path)), list(self._subgraphs)

    @versions(since=(10, 16))
    def supports_model_v2(self, model: Any, path: str | None = None) -> bool:
        return self._support(self._read(as_buffer(model, "supports_model_v2()"), path))

    @property
    @versions(since=(10, 16))
    def num_subgraphs(self) -> int:
        return len(self._subgraphs)

    @versions(since=(10, 16))
    def is_subgraph_supported(self, index: int) -> bool:
        return self._subgraphs[index][1]

    @versions(since=(10, 16))
    def get_subgraph_nodes(self, index: int) -> list[int]:
        return self._subgraphs[index][0]

    def supports_operator(self, op_name: str) -> bool:
        return op_name not in onnx_rules.UNSUPPORTED_OPERATORS

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        made: ParserError = self.library.module.ParserError(self._errors[index])
        return made

    def clear_errors(self) -> None:
        self._errors.clear()

    def _read(self, data: bytes, path: str | None, *, external: bool = True) -> onnx.ModelProto | None:
        model = read_model(data, path, external=external)
        if isinstance(model, str):
            self._refuse(Refusal("MODEL_DESERIALIZE_FAILED", model))
            return None
        return model

    def _parse(self, model: onnx.ModelProto | None) -> bool:
        self._network._failed = True
        if model is None:
            return False
        if missing := without_data(model):
            return self._refuse(Refusal("INVALID_VALUE", f"the weights {missing[0]!r} have no data"))
        onnx_rules.complete_outputs(model)
        found = self._refusals(model)
        for refusal in found:
            self._refuse(refusal)
        if found:
            return False
        model, had_double = without_double(model)
        if had_double:
            self._log("WARNING", "weights or tensors of type DOUBLE are cast down to FLOAT")
        self._network._take(model)
        self._network._failed = False
        return True

    def _refusals(self, model: onnx.ModelProto) -> list[Refusal]:
        limits = OPSET_LIMITS[self.library.major]
        if found := onnx_rules.refusals(model, limits):
            return found
        try:
            # A model without data is checked without data.
            onnx.checker.check_model(model)
        except (onnx.checker.ValidationError, ValueError) as error:
            return [Refusal("INVALID_GRAPH", str(error).splitlines()[0])]
        return []

    def _support(self, model: onnx.ModelProto | None) -> bool:
        self._subgraphs = []
        if model is None:
            return False
        onnx_rules.complete_outputs(model)
        found = self._refusals(model)
        for refusal in found:
            self._refuse(refusal)
        refused = {refusal.node for refusal in found}
        for index in range(len(model.graph.node)):
            good = index not in refused and -1 not in refused
            if not self._subgraphs or self._subgraphs[-1][1] != good:
                self._subgraphs.append(([], good))
            self._subgraphs[-1][0].append(index)
        return not found

    def _refuse(self, refusal: Refusal) -> bool:
        self._errors.append(refusal)
        self._log("ERROR", f"ModelImporter: {self.get_error(len(self._errors) - 1)}")
        return False


def read_model(data: bytes, path: str | None, *, external: bool = True) -> onnx.ModelProto | str:
    """Returns a model with its weights, or what is wrong with it.

    Args:
        data: The serialized model.
        path: Where the model lies; external data are looked for beside it.
        external: Whether external data are read.
    """
    try:
        model = onnx.ModelProto.FromString(data)
    except Exception as error:
        return f"failed to parse the ONNX model: {error}"
    if not model.opset_import or not model.graph.output:
        return "failed to parse the ONNX model: it has no operator set, or no output"
    if external and any(one.data_location == onnx.TensorProto.EXTERNAL for one in model.graph.initializer):
        try:
            onnx.load_external_data_for_model(model, os.path.dirname(os.path.abspath(path or ".")))
        except Exception as error:
            return f"failed to read external weights: {error}"
    return model


def without_data(model: onnx.ModelProto) -> list[str]:
    """Returns the initializers whose data were not loaded."""
    return [one.name for one in model.graph.initializer if one.data_location == onnx.TensorProto.EXTERNAL]


def load_initializer(model: onnx.ModelProto, name: str, data: bytes) -> bool:
    """Puts data into an initializer that has none; returns whether there is one of this size."""
    for initializer in model.graph.initializer:
        if initializer.name == name and initializer.data_location == onnx.TensorProto.EXTERNAL:
            itemsize = onnx.helper.tensor_dtype_to_np_dtype(initializer.data_type).itemsize
            count = 1
            for size in initializer.dims:
                count *= size
            if count * itemsize != len(data):
                return False
            initializer.raw_data = data
            initializer.data_location = onnx.TensorProto.DEFAULT
            del initializer.external_data[:]
            return True
    return False
