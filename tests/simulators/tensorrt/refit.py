"""The simulated refitters: weights come back into an engine whose plan was stripped, or change in one."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from tests.simulators.tensorrt.bindings_base import Bound, as_buffer, versions
from tests.simulators.tensorrt.onnx_rules import Refusal
from tests.simulators.tensorrt.parser import load_initializer, read_model, without_data
from tests.simulators.tensorrt.program import Program


class Refitter(Bound):
    """Collects weights and puts them into an engine."""

    def __init__(self, engine: Any, logger: Any) -> None:
        self.library.check_logger(logger, "Refitter()")
        if not isinstance(engine, self.library.module.ICudaEngine):
            raise TypeError("Refitter(): incompatible constructor arguments; expected an engine")
        if not engine.refittable:
            self.library.log(logger, "ERROR", "createInferRefitter: the engine is not refittable")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._engine = engine
        self._logger = logger
        self._given: dict[str, onnx.TensorProto] = {}

    @property
    def logger(self) -> Any:
        return self._logger

    def _weights(self) -> dict[str, onnx.TensorProto]:
        return {initializer.name: initializer for initializer in self._engine._plan.model.graph.initializer}

    def get_all_weights(self) -> list[str]:
        return list(self._weights())

    def get_missing_weights(self) -> list[str]:
        return sorted(self._engine._missing - set(self._given))

    def set_named_weights(self, name: str, weights: Any) -> bool:
        known = self._weights().get(name)
        if known is None:
            self.library.log(self._logger, "ERROR", f"IRefitter::setNamedWeights: there are no weights {name!r}")
            return False
        array = np.ascontiguousarray(weights)
        tensor = onnx.numpy_helper.from_array(array.reshape(tuple(known.dims)), name)
        return self._give(tensor)

    def _give(self, tensor: onnx.TensorProto) -> bool:
        known = self._weights().get(tensor.name)
        if known is None or known.data_type != tensor.data_type or list(known.dims) != list(tensor.dims):
            return False
        self._given[tensor.name] = tensor
        return True

    def refit_cuda_engine(self) -> bool:
        engine = self._engine
        engine._alive()
        if missing := self.get_missing_weights():
            self.library.log(self._logger, "ERROR", f"IRefitter::refitCudaEngine: missing weights {missing[:3]}")
            return False
        for initializer in engine._plan.model.graph.initializer:
            if initializer.name in self._given:
                initializer.CopyFrom(self._given[initializer.name])
        engine._missing = set()
        engine._plan = replace(engine._plan, stripped=())
        engine._program = Program(engine._plan.model)
        return True


class OnnxParserRefitter(Bound):
    """Gives a refitter the weights of an ONNX model."""

    def __init__(self, refitter: Refitter, logger: Any) -> None:
        self.library.check_logger(logger, "OnnxParserRefitter()")
        self._refitter = refitter
        self._logger = logger
        self._errors: list[Refusal] = []
        self._loaded: onnx.ModelProto | None = None

    def refit_from_bytes(self, model: Any, path: str | None = None) -> bool:
        return self._refit(read_model(as_buffer(model, "refit_from_bytes()"), path))

    def refit_from_file(self, model: str) -> bool:
        with open(model, "rb") as file:
            return self._refit(read_model(file.read(), model))

    @versions(since=(10, 16))
    def load_model_proto(self, model: Any, path: str | None = None) -> bool:
        loaded = read_model(as_buffer(model, "load_model_proto()"), path, external=False)
        self._loaded = None if isinstance(loaded, str) else loaded
        return self._loaded is not None

    @versions(since=(10, 16))
    def load_initializer(self, name: str, data: int, size: int) -> bool:
        if self._loaded is None:
            return False
        self._refitter.library.driver.memory.check_host(data, size, f"load_initializer({name!r})")
        return load_initializer(self._loaded, name, ctypes.string_at(data, size))

    @versions(since=(10, 16))
    def refit_model_proto(self) -> bool:
        return self._refit("load_model_proto() was not called" if self._loaded is None else self._loaded)

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> Any:
        return self.library.module.ParserError(self._errors[index])

    def clear_errors(self) -> None:
        self._errors.clear()

    def _refit(self, model: onnx.ModelProto | str) -> bool:
        if isinstance(model, str):
            return self._refuse(Refusal("MODEL_DESERIALIZE_FAILED", model))
        if missing := without_data(model):
            return self._refuse(Refusal("INVALID_VALUE", f"the weights {missing[0]!r} have no data"))
        known = self._refitter._weights()
        for initializer in model.graph.initializer:
            if initializer.name in known and not self._refitter._give(initializer):
                return self._refuse(Refusal("REFIT_FAILED", f"{initializer.name!r} has another type or shape"))
        if missing := self._refitter.get_missing_weights():
            return self._refuse(Refusal("REFIT_FAILED", f"the model lacks the weights {missing[0]!r}"))
        return True

    def _refuse(self, refusal: Refusal) -> bool:
        self._errors.append(refusal)
        self._refitter.library.log(self._logger, "ERROR", refusal.sentence)
        return False
