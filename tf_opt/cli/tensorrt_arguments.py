"""`tf_opt.TensorRTSettings` as options of a command."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tf_opt.cli.choices import one_of
from tf_opt.errors import InvalidOptionError

if TYPE_CHECKING:
    from tf_opt.engines.tensorrt.settings import TensorRTSettings

_PANEL = "TensorRT"
_PREFIX = "tensorrt_"
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


@dataclass(frozen=True, kw_only=True)
class TensorRTArguments:
    """How TensorRT builds and runs its engines."""

    tensorrt_profile: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=MIN:OPT:MAX,…",
            help="One profile: smallest, tuned for and largest shape of each input, such as 'ids=1x16:1x128:8x512'. "
            "Repeatable.",
            show_default="from the feeds",
            rich_help_panel=_PANEL,
        ),
    ] = None
    tensorrt_profile_strategy: Annotated[
        str | None,
        typer.Option(
            show_default="range",
            rich_help_panel=_PANEL,
            **one_of(("range", "optimal", "range+optimal"), "What becomes of the shapes in the feeds."),
        ),
    ] = None
    tensorrt_workspace: Annotated[
        str | None,
        typer.Option(
            metavar="BYTES",
            help="Scratch memory of a kernel, such as 512M or 4G.",
            show_default="all there is",
            rich_help_panel=_PANEL,
        ),
    ] = None
    tensorrt_optimization_level: Annotated[
        int | None,
        typer.Option(min=0, max=5, help="0 builds quickest, 5 tries most.", show_default="3", rich_help_panel=_PANEL),
    ] = None
    tensorrt_timing_cache: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Remembers how long kernels took.",
            show_default="in the cache folder",
            dir_okay=False,
            rich_help_panel=_PANEL,
        ),
    ] = None
    tensorrt_hardware_compatibility: Annotated[
        str | None,
        typer.Option(
            show_default="none",
            rich_help_panel=_PANEL,
            **one_of(("none", "ampere_plus", "same_compute_capability"), "Which other GPUs may run the plan."),
        ),
    ] = None
    tensorrt_version_compatible: Annotated[
        bool | None,
        typer.Option(help="Later versions may run the plan.", show_default="no", rich_help_panel=_PANEL),
    ] = None
    tensorrt_strip_weights: Annotated[
        bool | None,
        typer.Option(help="Store plans without weights.", show_default="no", rich_help_panel=_PANEL),
    ] = None
    tensorrt_cuda_graphs: Annotated[
        bool | None,
        typer.Option(help="Replay repeated shapes.", show_default="yes", rich_help_panel=_PANEL),
    ] = None
    tensorrt_maximum_contexts: Annotated[
        int | None,
        typer.Option(min=1, help="Calls at the same time.", show_default="4", rich_help_panel=_PANEL),
    ] = None
    tensorrt_tf32: Annotated[
        bool | None,
        typer.Option(help="fp32 may be computed in TF32.", show_default="no", rich_help_panel=_PANEL),
    ] = None
    tensorrt_tactic_source: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Where kernels may come from. Repeatable.", rich_help_panel=_PANEL),
    ] = None

    def settings(self, *, may_be_used: bool) -> TensorRTSettings | None:
        """Returns the settings; None where none is given.

        Args:
            may_be_used: Whether TensorRT is among the engines that were asked for.

        Raises:
            typer.BadParameter: A value is not allowed, or TensorRT is not asked for.
        """
        given = {name: value for name, value in asdict(self).items() if value is not None}
        if not given:
            return None
        if not may_be_used:
            option = f"--{next(iter(given)).replace('_', '-')}"
            raise typer.BadParameter("belongs to --engine tensorrt, auto or fastest.", param_hint=option)
        from tf_opt.engines.tensorrt.settings import TensorRTSettings

        settings: dict[str, Any] = {name.removeprefix(_PREFIX): value for name, value in given.items()}
        if "profile" in settings:
            settings["profiles"] = [parse_profile(text) for text in settings.pop("profile")]
        if "workspace" in settings:
            settings["workspace_bytes"] = parse_bytes(settings.pop("workspace"))
        if "tactic_source" in settings:
            settings["tactic_sources"] = settings.pop("tactic_source")
        try:
            return TensorRTSettings(**settings)
        except InvalidOptionError as error:
            raise typer.BadParameter(str(error)) from error


def parse_profile(text: str) -> Mapping[str, tuple[tuple[int, ...], ...]]:
    """Returns "ids=1x16:1x128:8x512,mask=…" as the smallest, tuned for and largest shape of each input.

    Raises:
        typer.BadParameter: It is written otherwise.
    """
    profile: dict[str, tuple[tuple[int, ...], ...]] = {}
    for part in text.split(","):
        matched = re.fullmatch(r"\s*([^=\s]+)=([\dx]+):([\dx]+):([\dx]+)\s*", part)
        shapes = [] if matched is None else [each.split("x") for each in matched.groups()[1:]]
        if matched is None or not all(size.isdecimal() for shape in shapes for size in shape):
            raise typer.BadParameter(
                f"{part!r} is no range of shapes; expected NAME=MIN:OPT:MAX such as ids=1x16:1x128:8x512.",
                param_hint="--tensorrt-profile",
            )
        profile[matched[1]] = tuple(tuple(int(size) for size in shape) for shape in shapes)
    return profile


def parse_bytes(text: str) -> int:
    """Returns "4G" as a number of bytes; K, M and G are powers of 1024.

    Raises:
        typer.BadParameter: It is written otherwise.
    """
    matched = re.fullmatch(r"(\d+)([KMG]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if matched is None:
        raise typer.BadParameter(
            f"{text!r} is no size; expected bytes such as 536870912, 512M or 4G.", param_hint="--tensorrt-workspace"
        )
    return int(matched[1]) * _UNITS[matched[2].upper()]
