"""What all objects of one simulated module share, and its smallest classes: loggers and callbacks."""

from __future__ import annotations

import types
from typing import Any

from tests.simulators.tensorrt import enums
from tests.simulators.tensorrt.bindings_base import (
    Bound,
    Overridable,
    Version,
    checked_overridable,
    make_enum,
    stored,
)
from tests.simulators.tensorrt.driver import SimulatedCudaDriver
from tests.simulators.tensorrt.violations import Violations


class Library:
    """State of a simulated module."""

    def __init__(self, version: str, driver: SimulatedCudaDriver) -> None:
        major, minor = version.split(".")[:2]
        self.version: Version = (int(major), int(minor))
        self.version_text = version
        self.driver = driver
        self.module: Any = types.ModuleType("tensorrt")
        self.builds = 0
        """How many engines were built."""

    @property
    def violations(self) -> Violations:
        """Where violations are collected."""
        return self.driver.violations

    @property
    def major(self) -> int:
        return self.version[0]

    def log(self, logger: ILogger, severity: str, message: str) -> None:
        """Passes a message to a program's logger."""
        logger.log(getattr(self.module.ILogger.Severity, severity), f"[simulator] {message}")

    def check_logger(self, logger: object, what: str) -> None:
        """Raises TypeError unless `logger` is an initialized ILogger of this module."""
        checked_overridable(logger, self.module.ILogger, what)


class ILogger(Overridable):
    """Base of loggers."""

    Severity: Any = None

    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError('Tried to call pure virtual function "ILogger::log"')


class Logger(ILogger):
    """Prints messages of a severity and above."""

    def __init__(self, min_severity: Any = None) -> None:
        super().__init__()
        self._minimum = self.library.module.ILogger.Severity.WARNING if min_severity is None else min_severity

    min_severity = stored("_minimum")

    def log(self, severity: Any, msg: str) -> None:
        if int(severity) <= int(self._minimum):
            print(f"[TRT] [{severity.name[0]}] {msg}")


class IProgressMonitor(Overridable):
    """Base of progress monitors."""

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        raise NotImplementedError('Tried to call pure virtual function "IProgressMonitor::phase_start"')

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise NotImplementedError('Tried to call pure virtual function "IProgressMonitor::step_complete"')

    def phase_finish(self, phase_name: str) -> None:
        raise NotImplementedError('Tried to call pure virtual function "IProgressMonitor::phase_finish"')


class IOutputAllocator(Overridable):
    """Base of output allocators; a program defines reallocate_output or reallocate_output_async, and notify_shape."""


def add_severities(module: Any) -> None:
    """Gives the loggers their severities: a class of their own, and each member as an attribute too."""
    severity = make_enum("Severity", enums.SEVERITIES)
    for cls in (module.ILogger, module.Logger):
        cls.Severity = severity
        for name, member in severity.__members__.items():
            setattr(cls, name, member)


class Owner(Bound):
    """A class whose objects a program destroys: usable with `with`, and dead after `__del__`."""

    _logger: ILogger

    def __enter__(self) -> Any:
        return self

    def __exit__(self, exc_type: object, exc_value: object, traceback: object) -> None:
        # The real bindings deprecate this and do nothing: objects live until their last reference goes.
        return None

    def _log(self, severity: str, message: str) -> None:
        self.library.log(self._logger, severity, message)


class Threaded(Owner):
    """What a program makes first and gives a logger: builders and runtimes."""

    def __init__(self, logger: Any) -> None:
        self.library.check_logger(logger, f"{type(self).__name__}()")
        self._logger = logger
        self._threads = 1

    @property
    def logger(self) -> Any:
        return self._logger

    max_threads = stored("_threads", int)
