"""One SavedModel on its way to another: what becomes of each of its callables, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tensorflow as tf

from tf_opt.engine_nodes import engine_bytes
from tf_opt.errors import (
    FreezeError,
    InvalidFeedError,
    OriginalGraphError,
    TfOptError,
    UnfeedableInputError,
    UnknownOpError,
)
from tf_opt.light_graph import LightGraph
from tf_opt.optimizer import Tf2TrtOpt
from tf_opt.option_names import check_option_names
from tf_opt.report.optimization import OptimizationReport
from tf_opt.report.saved_model import SavedModelReport
from tf_opt.saved_model.engine_files import EngineFiles, engine_files
from tf_opt.saved_model.feeds import ChosenFeeds, GivenFeeds
from tf_opt.saved_model.functions import GraphFunction, declared, endpoint_function, signature_function
from tf_opt.saved_model.parts import Part, SharedGraph, freeze_part, share_graphs, tensor_specs
from tf_opt.saved_model.source import LoadedModel, renamed_input
from tf_opt.saved_model.weights import WeightVariables
from tf_opt.saved_model.writer import (
    SavedModelContent,
    needed_objects,
    variable_bytes,
    write_content,
    write_copy,
)
from tf_opt.sizes import stored_bytes
from tf_opt.tensor_info import TensorInfo
from tf_opt.terminal import stage_progress

KERAS_CALLS = frozenset(
    "__call__ call_and_return_all_conditional_losses call_and_return_conditional_losses _default_save_signature"
    " train_function test_function predict_function train_tf_function".split()
)
"""What Keras stores to go on training with: the same computation several times over, which would take long to load."""


@dataclass(frozen=True, kw_only=True)
class Optimized:
    """A graph for which engines were adopted."""

    group: SharedGraph
    result: LightGraph


class Conversion:
    """The state that the stages hand on: freeze, optimize, write."""

    def __init__(self, model: LoadedModel, optimizer: Tf2TrtOpt) -> None:
        """Does nothing yet.

        Args:
            model: The original.
            optimizer: What optimizes each graph of it.
        """
        self.model = model
        self.optimizer = optimizer
        self.named: frozenset[str] = frozenset()
        self.weights = WeightVariables(model.variables)
        self.groups: list[SharedGraph] = []
        self.optimized: list[Optimized] = []
        self.unconverted: dict[str, str] = {}
        self.kept_endpoints: dict[str, str] = {}
        self.signature_reports: dict[str, OptimizationReport] = {}
        self.endpoint_reports: dict[str, OptimizationReport] = {}
        self.notes: list[str] = []
        self.losses: list[str] = []
        """What a SavedModel that is written anew has no more, and a copy still has."""

    def freeze(self, wanted: Sequence[str], *, named: bool) -> None:
        """Freezes what is to be optimized, and finds out why the rest is not.

        Args:
            wanted: Names of signatures.
            named: Whether the user named them. Otherwise endpoints are optimized too that compute something else, and
                what cannot be run stays as it was.
        """
        self.named = frozenset(wanted if named else ())
        parts = []
        renamed = renamed_input(self.model)
        if renamed:
            self.unconverted = dict.fromkeys(self.model.signatures, renamed)
            return
        with self.stage("freezing"):
            for name, function in self.model.signatures.items():
                if name not in wanted:
                    self.unconverted[name] = "It was not asked for."
                    continue
                try:
                    parts.append(freeze_part(name, function, is_signature=True))
                except FreezeError as error:
                    self.unconverted[name] = str(error)
            parts += self._freeze_endpoints()
            for group in share_graphs(parts, self.weights):
                if group.signatures or not named:
                    self.groups.append(group)
                else:
                    self._keep_endpoints(group, "It computes something else than the signatures that were asked for.")
        if set(self.model.tags) != {tf.saved_model.SERVING}:
            self.losses.append(
                f"The graph read is tagged {', '.join(self.model.tags) or 'nothing'}; the one written is 'serve'."
            )
        if self.model.attributes:
            self.losses.append(
                f"Left out, because only functions of the model itself are kept: the attributes "
                f"{', '.join(self.model.attributes)}."
            )

    def _freeze_endpoints(self) -> Iterator[Part]:
        for name, endpoint in self.model.endpoints.items():
            functions = endpoint.concrete_functions
            if not functions or name in KERAS_CALLS:
                self.losses.append(f"The endpoint {name!r} is left out: it is for training, or was never called.")
                continue
            if len(functions) > 1:
                self.kept_endpoints[name] = f"It has {len(functions)} functions; only those with one are optimized."
                continue
            try:
                part = freeze_part(name, functions[0], is_signature=False)
            except FreezeError as error:
                self.kept_endpoints[name] = str(error)
                continue
            specs = tensor_specs(functions[0].structured_input_signature)
            if specs is None or len(specs) != len(part.model.inputs):
                self.kept_endpoints[name] = "It takes arguments that are no dense tensors."
                continue
            yield part

    def _keep_endpoints(self, group: SharedGraph, reason: str) -> None:
        self.kept_endpoints.update({part.name: reason for part in group.parts if not part.is_signature})

    def optimize(self, feeds: GivenFeeds, disable_fp16: bool, opset: int | None) -> None:
        """Optimizes each graph once."""
        check_option_names(self.optimizer.options, [group.model for group in self.groups])
        work: list[tuple[SharedGraph, ChosenFeeds]] = []  # All are checked before the first is optimized.
        failures: list[TfOptError] = []
        finished = 0
        feeds.make_up(self.groups)
        for group in self.groups:
            try:
                work.append((group, feeds.of(group)))
            except UnfeedableInputError as error:
                failures.append(self._left_out(group, feeds, error))
        for group, chosen in work:
            try:
                result = self._optimize(group, chosen, disable_fp16, opset)
            except (OriginalGraphError, UnknownOpError) as error:
                failures.append(self._left_out(group, feeds, error))
                continue
            finished += 1
            self._note_made_up(group, chosen)
            report = self.optimizer.report
            for part in group.parts:
                reports = self.signature_reports if part.is_signature else self.endpoint_reports
                reports[part.name] = report
            if result is None:
                reason = "No engine was adopted; its report says why."
                self.unconverted.update(dict.fromkeys(group.signatures, reason))
                self._keep_endpoints(group, reason)
            else:
                self.optimized.append(Optimized(group=group, result=result))
        if failures and not finished:
            raise failures[0]
        # Those of one graph with a signature tell nothing new.
        shared = {part.name for group in self.groups if group.signatures for part in group.parts}
        self.endpoint_reports = {name: each for name, each in self.endpoint_reports.items() if name not in shared}

    def _left_out(self, group: SharedGraph, feeds: GivenFeeds, error: TfOptError) -> TfOptError:
        """Leaves a graph as it was that cannot be run, and returns the error; raises it where the graph was named."""
        if feeds.are_meant_for(group) or self.named.intersection(group.signatures):
            raise error
        reason = str(error).removeprefix(f"{group.title}: ")
        self.unconverted.update(dict.fromkeys(group.signatures, reason))
        self._keep_endpoints(group, reason)
        return error

    def _note_made_up(self, group: SharedGraph, chosen: ChosenFeeds) -> None:
        if chosen.made_up:
            measured = "built for" if self.optimizer.options.adopt == "always" else "measured on"
            self.notes.append(f"{group.title} was {measured} made-up feeds, as none were given for it.")

    def _optimize(
        self, group: SharedGraph, feeds: ChosenFeeds, disable_fp16: bool, opset: int | None
    ) -> LightGraph | None:
        try:
            result = self.optimizer.optimize_light(group.model, feeds.measured, disable_fp16, opset, feeds.calibration)
        except (InvalidFeedError, UnknownOpError) as error:
            raise type(error)(f"{group.title}: {error}") from error
        return None if result is group.model else result

    def write(self, target: Path, *, overwrite: bool) -> SavedModelReport:
        """Writes what was made, and the rest as it was."""
        for name, reason in self.kept_endpoints.items():
            self.notes.append(f"The endpoint {name!r} stays as it was: {reason}")
        if not self.optimized:
            self.notes = ["Nothing was optimized: the SavedModel is a copy.", *self.notes]
            with self.stage("copying"):
                return write_copy(self.model.folder, target, self.report, overwrite=overwrite)
        self.notes = [*self.losses, *self.notes]
        with engine_files() as engines:
            with self.stage("tracing"):
                content = self._content(engines)
            with self.stage("writing"):
                extra = self.model.folder / "assets.extra"
                return write_content(content, target, self.report, overwrite=overwrite, extra=extra)

    def _content(self, engines: EngineFiles) -> SavedModelContent:
        signatures: dict[str, Any] = {}
        endpoints: dict[str, Any] = {}
        for each in self.optimized:
            function = GraphFunction(each.result, self.weights, engines)
            for part, keys in zip(each.group.parts, each.group.output_keys, strict=True):
                call, inputs, outputs = self._adapted(function, part, keys, each.result)
                if part.is_signature:
                    signatures[part.name] = signature_function(call, inputs, outputs)
                else:
                    original = self.model.endpoints[part.name]
                    endpoints[part.name] = endpoint_function(call, part.function, original, inputs, outputs)
        kept = [name for name in self.model.signatures if name not in signatures]
        signatures = {name: signatures.get(name, function) for name, function in self.model.signatures.items()}
        endpoints.update({name: self.model.endpoints[name] for name in self.kept_endpoints})
        functions = [signatures[name] for name in kept]
        functions += [each for name in self.kept_endpoints for each in self.model.endpoints[name].concrete_functions]
        return SavedModelContent(
            signatures=signatures,
            endpoints=endpoints,
            variables=tuple(self.weights.used.values()),
            engines=engines.resources,
            engine_bytes=engines.size_bytes,
            kept=needed_objects(self.model.root, functions),
        )

    def _adapted(
        self, function: GraphFunction, part: Part, keys: Mapping[str, str], result: LightGraph
    ) -> tuple[Callable[[Mapping[str, Any]], dict[str, Any]], list[TensorInfo], list[TensorInfo]]:
        """Returns the graph as a function with a part's own inputs and outputs, and these."""
        # The options may have fixed dimensions that the original leaves open.
        inputs = {info.key: info for info in result.inputs}
        outputs = {info.key: info for info in result.outputs}
        fixed = not self.optimizer.options.dynamic_opt
        taken = [
            replace(info, shape=inputs[info.key].shape) if fixed and info.key in inputs else info
            for info in part.model.inputs
        ]
        returned = [
            replace(info, shape=outputs[keys[info.key]].shape) if fixed else info for info in part.model.outputs
        ]

        def call(tensors: Mapping[str, Any]) -> dict[str, Any]:
            found = function(tensors)
            return {info.key: declared(found[keys[info.key]], info) for info in returned}

        return call, taken, returned

    def report(self, folder: Path) -> SavedModelReport:
        """Returns the report of what stands in `folder`."""
        reports = self.signature_reports
        return SavedModelReport(
            signatures={name: reports[name] for name in self.model.signatures if name in reports},
            unconverted=self.unconverted,
            original_bytes=stored_bytes(self.model.folder),
            optimized_bytes=stored_bytes(folder),
            variable_bytes=variable_bytes(folder),
            engine_bytes=engine_bytes(*(each.result.graph_def for each in self.optimized)),
            endpoints=self.endpoint_reports,
            notes=tuple(self.notes),
        )

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Shows a stage on a terminal."""
        with stage_progress(self.optimizer.options.progress) as progress:
            progress.add_task(name)
            yield
