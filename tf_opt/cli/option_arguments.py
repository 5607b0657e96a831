"""The options of `Tf2TrtOpt` as options of a command.

None stands for what is not given, so that each default is written down once, in `tf_opt.Options`, and so that an option
that could not have an effect beside the others can be refused instead of ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from tf_opt.cli.choices import OPSETS, PRECISIONS, engines, one_of
from tf_opt.cli.quantization_arguments import QuantizationArguments
from tf_opt.cli.tensorrt_arguments import TensorRTArguments
from tf_opt.errors import InvalidOptionError

_ENGINE = "Engine"
_RESULT = "Precision and what is accepted"
_RUN = "How the result runs"
_WORK = "How it is worked out"


@dataclass(frozen=True, kw_only=True)
class SegmentArguments:
    """What decides which nodes become an engine, known without building one."""

    engine: Annotated[
        list[str] | None,
        typer.Option(
            show_default="auto",
            rich_help_panel=_ENGINE,
            **engines(
                "What runs the segments. Several, by commas or repeated: each gets what those before refuse. "
                "auto takes the first that can run here, fastest measures all that can."
            ),
        ),
    ] = None
    minimum_segment_size: Annotated[
        int | None,
        typer.Option(
            min=1, help="Segments with fewer nodes stay TensorFlow.", show_default="3", rich_help_panel=_ENGINE
        ),
    ] = None
    supported_op: Annotated[
        list[str] | None,
        typer.Option(metavar="OP", help="Only these ops may enter an engine. Repeatable.", rich_help_panel=_ENGINE),
    ] = None
    denied_op: Annotated[
        list[str] | None,
        typer.Option(metavar="OP", help="These ops stay TensorFlow. Repeatable.", rich_help_panel=_ENGINE),
    ] = None
    supported_node: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Only nodes of these names may enter an engine; patterns such as 'encoder/*' too. Repeatable.",
            rich_help_panel=_ENGINE,
        ),
    ] = None
    denied_node: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="These nodes stay TensorFlow. Repeatable.", rich_help_panel=_ENGINE),
    ] = None

    def keywords(self) -> dict[str, Any]:
        """Returns what is given, as keywords of `Tf2TrtOpt`."""
        several = self.engine if self.engine and len(self.engine) > 1 else None
        return _given(
            engine=several or (self.engine[0] if self.engine else None),
            minimum_segment_size=self.minimum_segment_size,
            supported_list=self.supported_op,
            denied_ops=self.denied_op,
            supported_nodes=self.supported_node,
            denied_nodes=self.denied_node,
        )


@dataclass(frozen=True, kw_only=True)
class OptimizeArguments:
    """Everything else that an optimization takes."""

    precision: Annotated[
        str | None,
        typer.Option(
            show_default="fp32",
            rich_help_panel=_RESULT,
            **one_of(PRECISIONS, "What engines compute in; auto keeps the fastest that is near enough."),
        ),
    ] = None
    sixteen_bit: Annotated[
        bool,
        typer.Option("--16-bit", help="The fastest 16-bit precision that this device has.", rich_help_panel=_RESULT),
    ] = False
    tolerance_cosine: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Lowest cosine to the original of any sample of any output.",
            show_default="0.999 in 16 bit, 0.99 in int8 and auto",
            rich_help_panel=_RESULT,
        ),
    ] = None
    tolerance_absolute: Annotated[
        float | None,
        typer.Option(min=0.0, help="Largest difference of any element from the original.", rich_help_panel=_RESULT),
    ] = None
    rtol: Annotated[
        float | None,
        typer.Option(min=0.0, help="In fp32: relative tolerance.", show_default="1e-06", rich_help_panel=_RESULT),
    ] = None
    atol: Annotated[
        float | None,
        typer.Option(min=0.0, help="In fp32: absolute tolerance.", show_default="0.001", rich_help_panel=_RESULT),
    ] = None
    tuning_seconds: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="In auto: budget for moving layers back from int8.",
            show_default="60",
            rich_help_panel=_RESULT,
        ),
    ] = None
    skip_padding: Annotated[
        str | None,
        typer.Option(
            metavar="INPUT",
            help="Name of the attention mask's input: engines leave padded positions out. Outputs there become zero.",
            rich_help_panel=_RESULT,
        ),
    ] = None
    adopt: Annotated[
        str | None,
        typer.Option(
            show_default="measured",
            rich_help_panel=_RESULT,
            **one_of(("measured", "always"), "always keeps every engine that loads, without comparing or timing it."),
        ),
    ] = None
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Fail where a segment cannot become an engine.", rich_help_panel=_RESULT),
    ] = False
    no_fallback: Annotated[
        bool,
        typer.Option(
            "--no-fallback",
            help="Leave the original nodes of each engine out: smaller, but shapes that an engine refuses are errors.",
            rich_help_panel=_RUN,
        ),
    ] = False
    fix_shapes: Annotated[
        bool,
        typer.Option(
            "--fix-shapes",
            help="Dimensions that are the same in all feeds become fixed.",
            rich_help_panel=_RUN,
        ),
    ] = False
    specialize_after: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Runs of one shape after which an engine of its own is tried for it; 0: never.",
            show_default="100",
            rich_help_panel=_RUN,
        ),
    ] = None
    maximum_cached_engines: Annotated[
        int | None,
        typer.Option(min=1, help="How many such engines are kept.", show_default="16", rich_help_panel=_RUN),
    ] = None
    measurement_seconds: Annotated[
        float | None,
        typer.Option(help="Budget of one measurement.", show_default="5", rich_help_panel=_WORK),
    ] = None
    opset: Annotated[
        int | None,
        typer.Option(
            min=OPSETS[0],
            max=OPSETS[1],
            help="ONNX opset of the exported segments.",
            show_default="17",
            rich_help_panel=_WORK,
        ),
    ] = None
    no_cache: Annotated[
        bool,
        typer.Option("--no-cache", help="Neither take an earlier result nor keep this one.", rich_help_panel=_WORK),
    ] = False
    cache_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where results are kept.", file_okay=False, rich_help_panel=_WORK),
    ] = None
    dump: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write the graph after each pass, and each segment.",
            file_okay=False,
            rich_help_panel=_WORK,
        ),
    ] = None

    def keywords(self) -> dict[str, Any]:
        """Returns what is given, as keywords of `Tf2TrtOpt`.

        Raises:
            typer.BadParameter: An option has no effect beside the others.
        """
        self._check()
        return _given(
            precision=self.precision,
            tolerance=self._tolerance(),
            rtol=self.rtol,
            atol=self.atol,
            tuning_seconds=self.tuning_seconds,
            skip_padding=self.skip_padding,
            adopt=self.adopt,
            strict=self.strict or None,
            keep_fallback=False if self.no_fallback else None,
            dynamic_opt=False if self.fix_shapes else None,
            specialize_after=self.specialize_after,
            maximum_cached_engines=self.maximum_cached_engines,
            measurement_seconds=self.measurement_seconds,
            cache=False if self.no_cache else None,
            cache_dir=self.cache_dir,
            dump_dir=self.dump,
        )

    def _check(self) -> None:
        judged_by_cosine = self.sixteen_bit or self.precision not in (None, "fp32")
        has_tolerance = self.tolerance_cosine is not None or self.tolerance_absolute is not None
        for name, value in (("--rtol", self.rtol), ("--atol", self.atol)):
            if value is not None and (judged_by_cosine or has_tolerance):
                raise typer.BadParameter(
                    "judges fp32 only, and only without --tolerance-…; give --tolerance-cosine or --tolerance-absolute "
                    "alone.",
                    param_hint=name,
                )
        if self.adopt == "always":
            judging = {
                "--rtol": self.rtol,
                "--atol": self.atol,
                "--tolerance-cosine": self.tolerance_cosine,
                "--tolerance-absolute": self.tolerance_absolute,
                "--measurement-seconds": self.measurement_seconds,
            }
            for name, value in judging.items():
                if value is not None:
                    raise typer.BadParameter("nothing is judged with --adopt always; leave one out.", param_hint=name)
        if self.sixteen_bit and self.precision is not None:
            raise typer.BadParameter("is a precision of its own; leave --precision out.", param_hint="--16-bit")
        if self.tuning_seconds is not None and self.precision != "auto":
            raise typer.BadParameter("belongs to --precision auto.", param_hint="--tuning-seconds")
        if self.cache_dir is not None and self.no_cache:
            raise typer.BadParameter("is of no use with --no-cache; leave one out.", param_hint="--cache-dir")

    def _tolerance(self) -> Any:
        if self.tolerance_cosine is None and self.tolerance_absolute is None:
            return None
        from tf_opt.tolerance import Tolerance

        return Tolerance(cosine=self.tolerance_cosine, maximum_absolute=self.tolerance_absolute)


def optimizer_keywords(
    segments: SegmentArguments,
    optimize: OptimizeArguments,
    quantization: QuantizationArguments,
    tensorrt: TensorRTArguments,
) -> dict[str, Any]:
    """Returns the keywords of `Tf2TrtOpt`, checked.

    Raises:
        typer.BadParameter: A value is not allowed, or an option has no effect beside the others.
    """
    precision = optimize.precision
    keywords = {**segments.keywords(), **optimize.keywords()}
    quantization_settings = quantization.settings(quantizes=precision in ("int8", "auto"))
    if quantization_settings is not None:
        keywords["quantization"] = quantization_settings
    engines = segments.engine or ["auto"]
    tensorrt_settings = tensorrt.settings(may_be_used=bool({"auto", "fastest", "tensorrt"} & set(engines)))
    if tensorrt_settings is not None:
        keywords["tensorrt"] = tensorrt_settings
    return check_keywords(keywords)


def check_keywords(keywords: dict[str, Any]) -> dict[str, Any]:
    """Returns the keywords where `Tf2TrtOpt` takes them.

    Raises:
        typer.BadParameter: It does not.
    """
    from tf_opt.options import Options

    try:
        Options.from_keywords(keywords)
    except InvalidOptionError as error:
        raise typer.BadParameter(str(error)) from error
    return keywords


def _given(**keywords: Any) -> dict[str, Any]:
    return {name: value for name, value in keywords.items() if value is not None}
