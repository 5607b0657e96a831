"""SavedModel in, SavedModel out.

load      source      signatures and callable attributes of the original
freeze    parts       each as a graph; those that are the same graph together
optimize  Tf2TrtOpt   once a graph, on the feeds of its signatures
trace     functions   a TensorFlow function of each result, weights as variables
write     writer      beside the target, renamed when whole
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from tf_opt.engine_nodes import engine_bytes
from tf_opt.errors import InvalidOptionError
from tf_opt.feeds import Feed
from tf_opt.frozen_graph import FrozenGraph
from tf_opt.light_graph import light_graph
from tf_opt.optimizer import Tf2TrtOpt
from tf_opt.output_paths import check_output_folder
from tf_opt.report.optimization import OptimizationReport
from tf_opt.report.saved_model import SavedModelReport
from tf_opt.saved_model.conversion import Conversion
from tf_opt.saved_model.engine_files import engine_files
from tf_opt.saved_model.feeds import GivenFeeds, MadeUpFeeds
from tf_opt.saved_model.functions import GraphFunction, signature_function
from tf_opt.saved_model.source import chosen_signatures, load_saved_model
from tf_opt.saved_model.weights import WeightVariables
from tf_opt.saved_model.writer import SavedModelContent, variable_bytes, write_content
from tf_opt.sizes import stored_bytes

Feeds: TypeAlias = Sequence[Feed] | Mapping[str, Sequence[Feed]] | MadeUpFeeds
"""Feeds for all signatures, or a list of them for each, by its name, or what makes these up."""


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
        signatures: Which signatures to optimize; None for all that can be: one that cannot be run, or for which no feed
            can be made up, then stays as it was, with the reason in the report.
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
        OutputExistsError: out_dir exists and `overwrite` is off, or replacing it would damage something else.
        OutputPathError: out_dir is a symbolic link, or cannot be written.
        OutputWriteError: The disk is full, or a file becomes larger than is allowed.
        InvalidFeedError: Feeds are for an unknown signature, missing for one of several, or do not fit.
        UnfeedableInputError, OriginalGraphError: A signature that was named or has feeds cannot be run, or none can.
        InvalidOptionError: An option is unknown or has a value that is not allowed.
        TfOptError: What `Tf2TrtOpt.optimize_graph_def` raises.
    """
    if "keep_fallback" in options:
        raise InvalidOptionError("keep_fallback is called fallback here. Pass fallback=True or fallback=False.")
    optimizer = Tf2TrtOpt(keep_fallback=fallback, **options)
    target = check_output_folder(out_dir, overwrite=overwrite, source=in_dir)
    model = load_saved_model(in_dir, tags)
    wanted = chosen_signatures(model, signatures)
    given = GivenFeeds(feeds, calibration_data, model.signatures, model.endpoints)
    conversion = Conversion(model, optimizer)
    conversion.freeze(wanted, named=signatures is not None)
    conversion.optimize(given, disable_fp16, opset)
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
        OutputExistsError: out_dir exists and `overwrite` is off, or replacing it would damage something else.
        OutputPathError: out_dir is a symbolic link, or cannot be written.
        OutputWriteError: The disk is full, or a file becomes larger than is allowed.
    """
    target = check_output_folder(out_dir, overwrite=overwrite)
    model = light_graph(frozen)
    weights = WeightVariables()

    def make_report(folder: Path) -> SavedModelReport:
        return SavedModelReport(
            signatures={} if report is None else {signature: report},
            unconverted={signature: "It was written as it was given."} if report is None else {},
            original_bytes=frozen.size_bytes,
            optimized_bytes=stored_bytes(folder),
            variable_bytes=variable_bytes(folder),
            engine_bytes=engine_bytes(model.graph_def),
        )

    with engine_files() as engines:
        function = GraphFunction(model, weights, engines)
        content = SavedModelContent(
            signatures={signature: signature_function(function, model.inputs, model.outputs)},
            variables=tuple(weights.used.values()),
            engines=engines.resources,
            engine_bytes=engines.size_bytes,
        )
        write_content(content, target, make_report, overwrite=overwrite)
    return target
