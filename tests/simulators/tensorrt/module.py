"""Puts the simulated classes together into a module as a version has it."""

from __future__ import annotations

import importlib.machinery
from typing import Any

from tests.simulators.tensorrt.bindings_base import Dims, IHostMemory, for_version
from tests.simulators.tensorrt.builder import Builder
from tests.simulators.tensorrt.config import IBuilderConfig, IOptimizationProfile, ITimingCache
from tests.simulators.tensorrt.context import IExecutionContext
from tests.simulators.tensorrt.driver import SimulatedCudaDriver
from tests.simulators.tensorrt.enums import enums
from tests.simulators.tensorrt.library import (
    ILogger,
    IOutputAllocator,
    IProgressMonitor,
    Library,
    Logger,
    add_severities,
)
from tests.simulators.tensorrt.network import INetworkDefinition, ITensor
from tests.simulators.tensorrt.parser import OnnxParser, ParserError
from tests.simulators.tensorrt.program import numpy_dtype
from tests.simulators.tensorrt.refit import OnnxParserRefitter, Refitter
from tests.simulators.tensorrt.runtime import ICudaEngine, ISerializationConfig, Runtime

_CLASSES = (
    Builder,
    IBuilderConfig,
    ICudaEngine,
    IExecutionContext,
    INetworkDefinition,
    IOptimizationProfile,
    IOutputAllocator,
    IProgressMonitor,
    ISerializationConfig,
    ITensor,
    ITimingCache,
    OnnxParser,
    OnnxParserRefitter,
    ParserError,
    Refitter,
    Runtime,
)

_FULL_VERSIONS = {"10.0": "10.0.1", "10.16": "10.16.1", "11.4": "11.4.0"}

_TYPE_NAMES = {
    "float32": "FLOAT",
    "float16": "HALF",
    "bfloat16": "BF16",
    "int8": "INT8",
    "int32": "INT32",
    "int64": "INT64",
    "uint8": "UINT8",
    "bool": "BOOL",
    "fp8": "FP8",
    "int4": "INT4",
}


def create_library(version: str, driver: SimulatedCudaDriver) -> Library:
    """Returns a simulated module and its state.

    Args:
        version: "10.0", "10.16" or "11.4".
        driver: The simulated GPU.
    """
    full = f"{_FULL_VERSIONS[version]}.simulated"
    library = Library(full, driver)
    module: Any = library.module
    module.__version__ = full
    # Programs ask importlib whether the package is there.
    module.__spec__ = importlib.machinery.ModuleSpec("tensorrt", None)
    for name, enum in enums(library.version).items():
        setattr(module, name, enum)
    for name, member in _TYPE_NAMES.items():
        setattr(module, name, getattr(module.DataType, member))
    module.DataType.itemsize = property(lambda self: numpy_dtype(self.name).itemsize)
    module.ILogger = for_version(ILogger, library.version, library)
    module.Logger = type("Logger", (for_version(Logger, library.version, library), module.ILogger), {})
    module.Logger.__module__ = "tensorrt"
    add_severities(module)
    for cls in _CLASSES:
        setattr(module, cls.__name__, for_version(cls, library.version, library))
    module.Dims = type("Dims", (Dims,), {"__module__": "tensorrt"})
    module.IHostMemory = type("IHostMemory", (IHostMemory,), {"__module__": "tensorrt"})
    return library
