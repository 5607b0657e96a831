"""`tf_opt.QuantizationSettings` as options of a command."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tf_opt.cli.choices import one_of
from tf_opt.errors import InvalidOptionError

if TYPE_CHECKING:
    from tf_opt.quantization import QuantizationSettings

_PANEL = "int8"
_PREFIX = "quantization_"


@dataclass(frozen=True, kw_only=True)
class QuantizationArguments:
    """How int8 is calibrated. Its target is the engine's, which is known later."""

    quantization_method: Annotated[
        str | None,
        typer.Option(
            show_default="search",
            rich_help_panel=_PANEL,
            **one_of(("search", "nncf"), "search looks at each matrix product by itself, nncf takes what nncf finds."),
        ),
    ] = None
    quantization_denied_op: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=_PANEL,
            **one_of(("MatMul", "Gemm", "Conv"), "ONNX operators that stay in floating point. Repeatable."),
        ),
    ] = None
    quantization_denied_node: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Nodes that stay in floating point; patterns such as '*/pooler/*' too. Repeatable.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    quantization_smoothing: Annotated[
        list[float] | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="How much of the differences between channels moves into the weights. Repeatable.",
            show_default="0.35, 0.5, 0.65, 0.8",
            rich_help_panel=_PANEL,
        ),
    ] = None
    quantization_weight_bits: Annotated[
        int | None,
        typer.Option(
            min=7,
            max=8,
            help="Bits that weights use of their int8.",
            show_default="7 on CPUs, 8 for TensorRT",
            rich_help_panel=_PANEL,
        ),
    ] = None
    quantization_correct_bias: Annotated[
        bool | None,
        typer.Option(
            help="Take the mean error of each channel out of the bias.", show_default="yes", rich_help_panel=_PANEL
        ),
    ] = None
    quantization_minimum_weight_elements: Annotated[
        int | None,
        typer.Option(
            min=1, help="Smaller matrix products stay in floating point.", show_default="4096", rich_help_panel=_PANEL
        ),
    ] = None
    quantization_maximum_samples: Annotated[
        int | None,
        typer.Option(min=1, help="At most so many feeds are used.", show_default="64", rich_help_panel=_PANEL),
    ] = None
    quantization_maximum_rows: Annotated[
        int | None,
        typer.Option(
            min=1, help="No more feeds once they hold so many rows.", show_default="2048", rich_help_panel=_PANEL
        ),
    ] = None

    def settings(self, *, quantizes: bool) -> QuantizationSettings | None:
        """Returns the settings; None where none is given.

        Args:
            quantizes: Whether int8 is among what is tried.

        Raises:
            typer.BadParameter: A value is not allowed, or nothing is quantized.
        """
        given = {name: value for name, value in asdict(self).items() if value is not None}
        if not given:
            return None
        if not quantizes:
            option = f"--{next(iter(given)).replace('_', '-')}"
            raise typer.BadParameter("belongs to --precision int8 or auto.", param_hint=option)
        from tf_opt.quantization import QuantizationSettings

        names: dict[str, Any] = {
            {"denied_op": "denied_ops", "denied_node": "denied_nodes"}.get(short, short): value
            for short, value in ((name.removeprefix(_PREFIX), value) for name, value in given.items())
        }
        try:
            return QuantizationSettings(**names)
        except InvalidOptionError as error:
            raise typer.BadParameter(str(error)) from error
