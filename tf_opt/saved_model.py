"""SavedModel in, SavedModel out.

load      saved_model_source      signatures and callable attributes of the original
freeze    saved_model_parts       each as a graph; those that are the same graph together
optimize  Tf2TrtOpt               once a graph, on the feeds of its signatures
trace     saved_model_functions   a TensorFlow function of each result, weights as variables
write     saved_model_writer      beside the target, renamed when whole
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tf_opt.errors import FreezeError, InvalidFeedError, InvalidOptionError
from tf_opt.feeds import Feed, check_feeds
from tf_opt.folders import check_output_folder, folder_bytes
from tf_opt.frozen_graph import FrozenGraph
from tf_opt.light_graph import LightGraph, light_graph
from tf_opt.optimizer import Tf2TrtOpt
from tf_opt.optimizer_inputs import needed_feeds
from tf_opt.passes.tf.splice import ENGINE_OP
from tf_opt.random_feeds import random_feeds
from tf_opt.report import OptimizationReport
from tf_opt.saved_model_feeds import feeds_by_name, feeds_of
from tf_opt.saved_model_functions import GraphFunction, signature_function
from tf_opt.saved_model_parts import Part, SharedGraph, freeze_part, share_graphs
from tf_opt.saved_model_report import SavedModelReport
from tf_opt.saved_model_source import LoadedModel, chosen_signatures, load_saved_model
from tf_opt.saved_model_weights import WeightVariables
from tf_opt.saved_model_writer import (
    SavedModelContent,
    needed_objects,
    variable_bytes,
    write_content,
    write_copy,
)

Feeds = Sequence[Feed] | Mapping[str, Sequence[Feed]]


def optimize_saved_model(
    in_dir: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    signatures: Sequence[str] | str | None = None,
    feeds: Feeds | None = None,
    *,
    tags: Iterable[str] | str | None = None,
    calibration_data: Iterable[Feed] | Mapping[str, Iterable[Feed]] | None = None,
    overwrite: bool = False,
    fallback: bool = True,
    disable_fp16: bool = True,
    opset: int | None = None,
    **options: Any,
) -> SavedModelReport:
    """Writes a SavedModel in which engines run what they can of the signatures of another.

    Signatures keep their names, inputs and outputs, and so do the model's callable attributes with one function of
    dense tensors, such as the `serve` of Keras. What cannot be optimized stays as it was.

    A process that loads the result has to `import tf_opt`, so that TensorFlow knows the engine op.

    Args:
        in_dir: The SavedModel to read.
        out_dir: The folder to write. It appears when it is whole.
        signatures: Which signatures to optimize; None for all.
        feeds: What engines are measured on, as the model will be served: a list of feeds by input key, or one for each
            signature by its name. None makes some up, which the report says.
        tags: Tags of the graph to read; None takes the only one there is.
        calibration_data: Feeds that "int8" is calibrated with, given like `feeds`; None takes these.
        overwrite: Whether a SavedModel in the place of out_dir is replaced, once the new one is whole.
        fallback: False drops the original nodes of each engine, and the weights that only they read. Shapes that the
            engine does not take are then errors.
        disable_fp16: See `Tf2TrtOpt.optimize_graph_def`.
        opset: See there.
        **options: Those of `Tf2TrtOpt`.

    Returns:
        What was done; it is also in the written folder, as assets.extra/tf_opt_report.json.

    Raises:
        InvalidSavedModelError: in_dir is no SavedModel that can be loaded, or has several graphs and `tags` names none.
        UnknownSignatureError: There is no signature of that name.
        OutputExistsError: out_dir exists and `overwrite` is off, or is no place to write to.
        InvalidFeedError: Feeds are for an unknown signature, missing for one of several, or do not fit.
        InvalidOptionError: An option is unknown or has a value that is not allowed.
        TfOptError: What `Tf2TrtOpt.optimize_graph_def` raises.
    """
    if "keep_fallback" in options:
        raise InvalidOptionError("keep_fallback is called fallback here. Pass fallback=True or fallback=False.")
    optimizer = Tf2TrtOpt(keep_fallback=fallback, **options)
    target = check_output_folder(out_dir, overwrite=overwrite, source=in_dir)
    model = load_saved_model(in_dir, tags)
    wanted = chosen_signatures(model, signatures)
    conversion = _Conversion(model, optimizer)
    conversion.freeze(wanted, endpoints=signatures is None)
    names = [*model.signatures, *model.endpoints]
    given = _Given(
        feeds=feeds_by_name(feeds, wanted, names) or feeds,
        calibration=feeds_by_name(calibration_data, wanted, names, "calibration_data") or calibration_data,
        disable_fp16=disable_fp16,
        opset=opset,
    )
    conversion.check(given)
    for group in conversion.groups:
        conversion.optimize(group, given)
    return conversion.write(target, overwrite=overwrite)


def save_saved_model(
    frozen: FrozenGraph,
    out_dir: str | os.PathLike[str],
    *,
    signature: str = "serving_default",
    overwrite: bool = False,
    report: OptimizationReport | None = None,
) -> Path:
    """Writes a frozen graph, optimized or not, as a SavedModel with one signature. Its weights become variables.

    Args:
        frozen: The graph; its keys become those of the signature.
        out_dir: The folder to write. It appears when it is whole.
        signature: Name of the signature.
        overwrite: Whether a SavedModel in the place of out_dir is replaced, once the new one is whole.
        report: What made the graph; it is stored with the model.

    Returns:
        The folder.

    Raises:
        OutputExistsError: out_dir exists and `overwrite` is off, or is no place to write to.
    """
    target = check_output_folder(out_dir, overwrite=overwrite)
    model = light_graph(frozen)
    weights = WeightVariables()
    function = GraphFunction(model, weights)
    content = SavedModelContent(
        signatures={signature: signature_function(function, model.inputs, model.outputs)},
        variables=tuple(weights.used.values()),
    )

    def make_report(folder: Path) -> SavedModelReport:
        return SavedModelReport(
            signatures={} if report is None else {signature: report},
            unconverted={signature: "It was written as it was given."} if report is None else {},
            original_bytes=frozen.size_bytes,
            optimized_bytes=folder_bytes(folder),
            variable_bytes=variable_bytes(folder),
            engine_bytes=_engine_bytes(model),
        )

    write_content(content, target, make_report, overwrite=overwrite)
    return target


@dataclass(frozen=True, kw_only=True)
class _Given:
    """What each optimization is given besides its graph."""

    feeds: Any
    calibration: Any
    disable_fp16: bool
    opset: int | None


@dataclass
class _Conversion:
    """One SavedModel on its way: the state that the stages hand on."""

    model: LoadedModel
    optimizer: Tf2TrtOpt
    unconverted: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    groups: list[SharedGraph] = field(default_factory=list)
    reports: dict[str, OptimizationReport] = field(default_factory=dict)
    kept_endpoints: list[str] = field(default_factory=list)
    optimized: list[tuple[SharedGraph, LightGraph]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.weights = WeightVariables(getattr(self.model.root, "variables", ()))

    def freeze(self, wanted: Sequence[str], *, endpoints: bool) -> None:
        """Freezes what is wanted, and notes why the rest stays."""
        parts: list[Part] = []
        for name, function in self.model.signatures.items():
            if name not in wanted:
                self.unconverted[name] = "It was not asked for."
                continue
            try:
                parts.append(freeze_part(name, function))
            except FreezeError as error:
                self.unconverted[name] = str(error)
        self.groups = share_graphs(parts, self.weights)

    def check(self, given: _Given) -> None:
        """Checks all feeds before the first optimization."""
        for group in self.groups:
            found = None if given.feeds is None else feeds_of(group, given.feeds)
            if found is None and given.feeds is not None:
                raise InvalidFeedError(
                    f"There are no feeds for the signature {group.parts[0].name!r}. Give some, or name with "
                    "`signatures` those to optimize."
                )
            if found is not None:
                check_feeds(*needed_feeds(group.model, found))

    def optimize(self, group: SharedGraph, given: _Given) -> None:
        """Optimizes one graph."""
        feeds = None if given.feeds is None else feeds_of(group, given.feeds)
        calibration = None if given.calibration is None else feeds_of(group, given.calibration)
        if feeds is None:
            feeds = random_feeds(
                FrozenGraph(graph_def=group.model.graph_def, inputs=group.model.inputs, outputs=group.model.outputs)
            )
            self.notes.append(
                f"{group.parts[0].name}: no feeds were given, so that engines were measured on made-up ones."
            )
        light = self.optimizer.optimize_light(group.model, feeds, given.disable_fp16, given.opset, calibration)
        for part in group.parts:
            self.reports[part.name] = self.optimizer.report
            if light is group.model:
                self.unconverted[part.name] = "No engine was adopted; its report says why."
        if light is not group.model:
            self.optimized.append((group, light))

    def write(self, target: Path, *, overwrite: bool) -> SavedModelReport:
        """Writes what was made, and the rest as it was."""
        if not self.optimized:
            return write_copy(self.model.folder, target, self.report, overwrite=overwrite)
        signatures = {}
        for group, light in self.optimized:
            function = GraphFunction(light, self.weights)
            for part in group.parts:
                keys = group.output_keys.get(part.name, {})

                def call(tensors: Any, function: Any = function, keys: Any = keys, part: Part = part) -> Any:
                    found = function(tensors)
                    return {info.key: found[keys.get(info.key, info.key)] for info in part.model.outputs}

                signatures[part.name] = signature_function(call, part.model.inputs, part.model.outputs)
        kept = {name: self.model.signatures[name] for name in self.model.signatures if name not in signatures}
        content = SavedModelContent(
            signatures={**signatures, **kept},
            variables=tuple(self.weights.used.values()),
            kept=needed_objects(self.model.root, list(kept.values())),
        )
        return write_content(
            content, target, self.report, overwrite=overwrite, extra=self.model.folder / "assets.extra"
        )

    def report(self, folder: Path) -> SavedModelReport:
        """Returns the report of what stands in `folder`."""
        return SavedModelReport(
            signatures={name: self.reports[name] for name in self.model.signatures if name in self.reports},
            unconverted=self.unconverted,
            original_bytes=folder_bytes(self.model.folder),
            optimized_bytes=folder_bytes(folder),
            variable_bytes=variable_bytes(folder),
            engine_bytes=sum(_engine_bytes(light) for _, light in self.optimized),
            notes=tuple(self.notes),
        )


def _engine_bytes(model: LightGraph) -> int:
    return sum(len(node.attr["engine"].s) for node in model.graph_def.node if node.op == ENGINE_OP)
