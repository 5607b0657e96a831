"""What int8 is calibrated with, where that is not the feeds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from tf_opt.cli.feed_arguments import FeedArguments, FeedSource

_PANEL = "int8"


@dataclass(frozen=True, kw_only=True)
class CalibrationArguments:
    """Feeds for calibration: more of them, and more varied, than those that are compared and timed."""

    calibration_feeds: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE.npz",
            help="Arrays to calibrate with; each file is a feed. Repeatable.",
            show_default="the feeds",
            rich_help_panel=_PANEL,
        ),
    ] = None
    calibration_texts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.jsonl", help="Texts to calibrate with, read by --tokenizer.", rich_help_panel=_PANEL
        ),
    ] = None

    def source(self, precision: str | None, feeds: FeedArguments) -> FeedSource | None:
        """Returns where calibration feeds come from; None for the feeds themselves.

        Args:
            precision: What the user asked for.
            feeds: The options of the feeds: tokenizer, batch size and lengths hold for calibration too.

        Raises:
            typer.BadParameter: Nothing is calibrated, or two sources are given, or one lacks what it needs.
        """
        given = {"--calibration-feeds": self.calibration_feeds, "--calibration-texts": self.calibration_texts}
        named = [name for name, value in given.items() if value]
        if not named:
            return None
        if precision not in ("int8", "auto"):
            raise typer.BadParameter("belongs to --precision int8 or auto.", param_hint=named[0])
        if len(named) > 1:
            raise typer.BadParameter("give one of the two.", param_hint=" and ".join(named))
        if self.calibration_texts and feeds.tokenizer is None:
            raise typer.BadParameter("needs --tokenizer.", param_hint=named[0])
        nothing = {"tokenizer": None, "batch_size": None, "maximum_length": None, "text_input": None}
        own = replace(feeds, feeds=self.calibration_feeds, texts=self.calibration_texts, shape=None)
        own = replace(own, feed_count=None, seed=None)
        return (own if self.calibration_texts else replace(own, **nothing)).source()
