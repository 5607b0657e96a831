"""`tf-opt analyze`: what would become an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tf_opt.cli.model_arguments import ModelArguments, prepare
from tf_opt.cli.option_arguments import SegmentArguments, check_keywords
from tf_opt.cli.output import Output
from tf_opt.cli.running import command


@command
def analyze(
    source: Annotated[Path, typer.Argument(metavar="IN", help="SavedModel, .pb, .keras or Hugging Face folder.")],
    model: ModelArguments,
    segments: SegmentArguments,
    output: Output,
) -> None:
    """Tell what of a model would become an engine, and why the rest would not. Nothing is built or written.

    Example: tf-opt analyze my_model --engine openvino
    """
    keywords = {**check_keywords(segments.keywords()), "progress": output.shows_progress}
    [kind] = prepare([source], output)
    model.check([kind])
    from tf_opt.cli.models import read_model
    from tf_opt.light_graph import light_graph
    from tf_opt.optimizer import Tf2TrtOpt
    from tf_opt.option_names import check_option_names

    read = read_model(source, kind, model, output)
    optimizer = Tf2TrtOpt(**keywords)
    graphs = {signature: light_graph(frozen) for signature, frozen in read.graphs.items()}
    check_option_names(optimizer.options, list(graphs.values()))
    reports = {}
    for signature, graph in graphs.items():
        with output.doing(f"analyzing {signature or source}"):
            reports[signature] = optimizer.analyze_light(graph)
    for signature, report in reports.items():
        if signature:
            output.show(f"Signature {signature}")
        if not output.as_json:
            report.print(output.console())
    content = {"input": str(source), "kind": kind.value}
    if kind.has_signatures:
        output.result({**content, "signatures": {key: report.to_dict() for key, report in reports.items()}})
    else:
        output.result({**content, "report": reports[""].to_dict()})
