"""`tf-opt optimize`: a model in, a model with engines out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tf_opt.cli.calibration_arguments import CalibrationArguments
from tf_opt.cli.feed_arguments import FeedArguments
from tf_opt.cli.model_arguments import ModelArguments, prepare
from tf_opt.cli.option_arguments import OptimizeArguments, SegmentArguments, optimizer_keywords
from tf_opt.cli.output import Output
from tf_opt.cli.output_paths import check_other_outputs, check_output, check_report
from tf_opt.cli.quantization_arguments import QuantizationArguments
from tf_opt.cli.running import command
from tf_opt.cli.tensorrt_arguments import TensorRTArguments
from tf_opt.files import write_text
from tf_opt.sizes import size_text, stored_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tf_opt.report.optimization import OptimizationReport
    from tf_opt.report.output import ReportOutput

_PANEL = "Result"


@command
def optimize(
    source: Annotated[Path, typer.Argument(metavar="IN", help="SavedModel, .pb, .keras or Hugging Face folder.")],
    target: Annotated[
        Path, typer.Argument(metavar="OUT", help="The result: a SavedModel folder, or a graph in a file *.pb.")
    ],
    model: ModelArguments,
    feed: FeedArguments,
    segments: SegmentArguments,
    options: OptimizeArguments,
    calibration: CalibrationArguments,
    quantization: QuantizationArguments,
    tensorrt: TensorRTArguments,
    output: Output,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace OUT and the report where they exist.", rich_help_panel=_PANEL),
    ] = False,
    report_file: Annotated[
        Path | None,
        typer.Option(
            "--report", metavar="FILE", help="Write the report: .html, .json or .txt.", rich_help_panel=_PANEL
        ),
    ] = None,
) -> None:
    """Replace the parts of a model that an engine runs faster; the rest stays TensorFlow.

    An engine stays only where it is within tolerance and not slower on the feeds, which should look like what the
    model will be served. OUT runs in any process that imports tf_opt.

    Example: tf-opt optimize my_model my_model_fast --texts sentences.jsonl --tokenizer tokenizer_folder
    """
    started = time.perf_counter()
    feeds = feed.source(other_texts=calibration.calibration_texts is not None)
    keywords = {**optimizer_keywords(segments, options, quantization, tensorrt), "progress": output.shows_progress}
    calibration_source = calibration.source(options.precision, feed)
    check_report(report_file, overwrite=overwrite)
    check_output(target, source, overwrite=overwrite)
    others = {
        "--dump": options.dump,
        "--cache-dir": options.cache_dir,
        "--tensorrt-timing-cache": tensorrt.tensorrt_timing_cache,
    }
    check_other_outputs(others, source, target)
    [kind] = prepare([source], output)
    model.check([kind])
    for each in (feeds, calibration_source):
        if each is not None:
            each.check_files()
    from tf_opt.cli.optimization import Optimization

    work = Optimization(
        source=source,
        target=target,
        kind=kind,
        model=model,
        feeds=feeds,
        calibration=calibration_source,
        keywords=keywords,
        disable_fp16=not options.sixteen_bit,
        opset=options.opset,
        overwrite=overwrite,
    )
    report = work.run(output)
    if report_file is not None:
        write_report(report, report_file)
    output.note(feeds.describe())
    if not any(each.engine_count for each in optimizations(report)):
        output.note(f"Note: no engine was kept, so that {target} computes what {source} does. The report says why.")
    if not output.as_json:
        report.print(output.console())
    figures = {
        "input_bytes": stored_bytes(source),
        "output_bytes": stored_bytes(target),
        "seconds": time.perf_counter() - started,
    }
    output.show(
        f"{target}: {size_text(figures['output_bytes'])}, from {size_text(figures['input_bytes'])}, in "
        f"{figures['seconds']:.1f} s"
    )
    content = {"input": str(source), "kind": kind.value, "output": str(target), "feeds": feeds.describe()}
    output.result({**content, **figures, "report": report.to_dict()})


def optimizations(report: ReportOutput) -> Sequence[OptimizationReport]:
    """Returns the reports of all graphs that were optimized."""
    from tf_opt.report.optimization import OptimizationReport
    from tf_opt.report.saved_model import SavedModelReport

    if isinstance(report, SavedModelReport):
        return [*report.signatures.values(), *report.endpoints.values()]
    return [report] if isinstance(report, OptimizationReport) else []


def write_report(report: ReportOutput, path: Path) -> None:
    """Writes a report in the form that the ending of `path` says."""
    if path.suffix.lower() == ".html":
        report.to_html(path)
    elif path.suffix.lower() == ".json":
        report.to_json(path)
    else:
        write_text(path, report.text() + "\n")
