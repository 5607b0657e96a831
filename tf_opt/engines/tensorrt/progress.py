"""How far a build is: a bar on a terminal, nothing elsewhere."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from tf_opt.engines.tensorrt import versions


@contextlib.contextmanager
def progress_monitor(title: str, console: Console | None = None) -> Iterator[Any]:
    """Gives a monitor for a build's configuration, or None where this TensorRT does not report how far it is.

    Ctrl-C ends the build at its next step, where TensorRT asks whether to go on; the monitor's `interruption` is the
    exception then, for the caller to raise.

    Args:
        title: What is built.
        console: Where the bars go. None: standard error.
    """
    if not versions.has_progress_monitor():
        yield None
        return
    import tensorrt as trt

    # Standard error: a program's output stays its own.
    console = console or Console(stderr=True)
    bars = Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"), TimeElapsedColumn(),
        console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip
    monitor = _monitor_class(trt)(title, bars)
    with bars:
        yield monitor


@functools.cache
def _monitor_class(module: Any) -> Any:
    """Makes the class here, because its base is known only once TensorRT is imported."""

    class Monitor(module.IProgressMonitor):  # type: ignore[misc, unused-ignore]
        def __init__(self, title: str, bars: Progress) -> None:
            module.IProgressMonitor.__init__(self)
            self.interruption: BaseException | None = None
            self._title = title
            self._bars = bars
            self._tasks: dict[str, TaskID] = {}
            self._depths: dict[str, int] = {}
            self._lock = threading.Lock()  # TensorRT calls from several threads.

        def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None:
            with self._guarded():
                depth = self._depths[phase_name] = self._depths.get(parent_phase, -1) + 1
                text = f"{self._title}: {phase_name}" if depth == 0 else f"{'  ' * depth}{phase_name}"
                self._tasks[phase_name] = self._bars.add_task(text, total=int(num_steps))

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self._guarded():
                if (task := self._tasks.get(phase_name)) is not None:
                    self._bars.update(task, completed=int(step) + 1)
            return self.interruption is None

        def phase_finish(self, phase_name: str) -> None:
            with self._guarded():
                if (task := self._tasks.pop(phase_name, None)) is not None:
                    self._bars.remove_task(task)

        @contextlib.contextmanager
        def _guarded(self) -> Iterator[None]:
            """Keeps everything from escaping into TensorRT, where an exception ends the process."""
            try:
                with self._lock:
                    yield
            except Exception:
                return  # A bar that cannot be drawn is no reason to end a build.
            except BaseException as error:
                self.interruption = error

    return Monitor
