"""Where the feeds of a command come from."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tf_opt.cli.shapes import ShapeSpecification, combinations, parse_shapes
from tf_opt.errors import FeedFileError, InvalidFeedError, UnfeedableInputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tf_opt.feeds import Feed
    from tf_opt.frozen_graph import FrozenGraph
    from tf_opt.tensor_info import TensorInfo

_PANEL = "Feeds (what the model is run on)"
DEFAULT_BATCH_SIZE = 32


@dataclass(frozen=True, kw_only=True)
class FeedArguments:
    """Arrays, texts, or shapes that random feeds are made for."""

    feeds: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE.npz", help="Arrays by input name; each file is a feed. Repeatable.", rich_help_panel=_PANEL
        ),
    ] = None
    texts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.jsonl",
            help='A text a line: a JSON string, or an object with "text". Inputs of strings take it as it is, others '
            "need --tokenizer.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    tokenizer: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Tokenizer of Hugging Face that reads the texts.", rich_help_panel=_PANEL),
    ] = None
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Most texts in a feed.", show_default=str(DEFAULT_BATCH_SIZE), rich_help_panel=_PANEL),
    ] = None
    maximum_length: Annotated[
        int | None,
        typer.Option(min=1, help="Texts are cut after so many tokens.", show_default="512", rich_help_panel=_PANEL),
    ] = None
    text_input: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=INPUT",
            help="Which input takes what the tokenizer calls NAME, where that is called otherwise. Repeatable.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    shape: Annotated[
        list[str] | None,
        typer.Option(
            metavar="INPUT=SIZES",
            help="Random feeds of these shapes, such as input_ids=1..8x16..384: smallest, largest, and between. "
            "Repeatable; inputs of the same static shape follow.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    feed_count: Annotated[
        int | None,
        typer.Option(min=1, help="Random feeds of each shape.", show_default="1", rich_help_panel=_PANEL),
    ] = None
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="The same seed, the same random feeds.", show_default="0", rich_help_panel=_PANEL),
    ] = None

    def source(self, *, other_texts: bool = False) -> FeedSource:
        """Returns where feeds come from, checked before anything is read.

        Args:
            other_texts: Whether texts for something else are read with the same tokenizer.

        Raises:
            typer.BadParameter: Two sources are given, one lacks what it needs, or a shape is written wrongly.
        """
        given = {"--feeds": self.feeds, "--texts": self.texts, "--shape": self.shape}
        named = [name for name, value in given.items() if value]
        if len(named) > 1:
            raise typer.BadParameter(
                "feeds come from one place: arrays, texts, or shapes to make random ones for; leave the others out.",
                param_hint=" and ".join(named),
            )
        texts_only = {
            "--tokenizer": self.tokenizer,
            "--batch-size": self.batch_size,
            "--maximum-length": self.maximum_length,
            "--text-input": self.text_input,
        }
        random_only = {"--feed-count": self.feed_count, "--seed": self.seed}
        for name, value in texts_only.items():
            if value and not self.texts and not other_texts:
                raise typer.BadParameter("belongs to --texts, which is not given.", param_hint=name)
        for name in ("--maximum-length", "--text-input"):
            if texts_only[name] and self.tokenizer is None:
                raise typer.BadParameter("belongs to --tokenizer, which is not given.", param_hint=name)
        for name, value in random_only.items():
            if value is not None and (self.feeds or self.texts):
                raise typer.BadParameter(f"belongs to random feeds; {named[0]} gives the feeds.", param_hint=name)
        names = dict(_pair(text) for text in self.text_input or ())
        return FeedSource(arguments=self, shapes=parse_shapes(self.shape or ()), text_inputs=names)


@dataclass(frozen=True, kw_only=True)
class FeedSource:
    """Makes the feeds of a graph.

    Attributes:
        arguments: What the user gave.
        shapes: The shapes among it.
        text_inputs: From what a tokenizer gives to the input that takes it.
    """

    arguments: FeedArguments
    shapes: tuple[ShapeSpecification, ...]
    text_inputs: dict[str, str]

    @property
    def is_asked_for(self) -> bool:
        """Whether the user said anything about feeds."""
        return self.arguments != FeedArguments()

    @property
    def is_random(self) -> bool:
        """Whether feeds are made up."""
        return not (self.arguments.feeds or self.arguments.texts)

    def describe(self) -> str:
        """Returns where the feeds come from, as a sentence."""
        if self.arguments.feeds:
            return f"Feeds: {', '.join(map(str, self.arguments.feeds))}."
        if self.arguments.texts:
            return f"Feeds: the texts of {self.arguments.texts}."
        if self.shapes:
            return f"Feeds: random ones of the shapes {', '.join(self.arguments.shape or ())}."
        advice = "Give real ones with --feeds or --texts, or shapes with --shape."
        return f"Feeds: random ones of the model's own shapes. {advice}"

    def check_files(self) -> None:
        """Reads the files, so that what is wrong with them is said before a model takes its time.

        Raises:
            FeedFileError, TokenizerError: A file or folder cannot be read.
        """
        from tf_opt.cli.feed_files import read_arrays, read_texts

        for path in self.arguments.feeds or ():
            read_arrays(path)
        if self.arguments.texts:
            read_texts(self.arguments.texts)
        if self.arguments.texts and self.arguments.tokenizer:
            from tf_opt.cli.hugging_face import check_tokenizer_folder

            check_tokenizer_folder(self.arguments.tokenizer)

    def feeds(self, frozen: FrozenGraph) -> list[Feed]:
        """Returns the feeds of a graph.

        Raises:
            InvalidFeedError: A file cannot be read or does not fit the inputs, or a shape does not.
        """
        if not self.is_random:
            return self.read(frozen.inputs)
        from tf_opt.random_feeds import random_feeds

        count, seed = self.arguments.feed_count or 1, self.arguments.seed or 0
        return [
            feed
            for number, shapes in enumerate(combinations(self.shapes))
            for feed in random_feeds(frozen, shapes, count=count, seed=seed + number)
        ]

    def random_by_signature(
        self, graphs: Mapping[str, FrozenGraph], left_out: dict[str, str] | None = None
    ) -> dict[str, list[Feed]]:
        """Returns random feeds of several graphs; of the shapes, each takes those of its own inputs.

        Args:
            graphs: The graphs by signature; the key is empty where the model has one way to be called.
            left_out: Takes the reasons why no feed can be made up for a graph; None makes these errors.

        Raises:
            InvalidFeedError: As at `feeds`, with the signature it is about; or no graph has an input of that name.
        """
        from tf_opt.frozen_graph import find_tensor

        inputs = [info for frozen in graphs.values() for info in frozen.inputs]
        if any(find_tensor(inputs, shape.name) is None for shape in self.shapes):
            return {key: self.feeds(frozen) for key, frozen in graphs.items()}  # The first one says what is wrong.
        found = {}
        for key, frozen in graphs.items():
            own = tuple(shape for shape in self.shapes if find_tensor(frozen.inputs, shape.name) is not None)
            with _naming_signature(key, "--shape gives shapes of inputs, --signature leaves signatures out."):
                try:
                    found[key] = replace(self, shapes=own).feeds(frozen)
                except UnfeedableInputError as error:
                    if left_out is None:
                        raise
                    left_out[key] = str(error)
        return found

    def read_by_signature(self, inputs: Mapping[str, Sequence[TensorInfo]]) -> dict[str, list[Feed]]:
        """Returns the feeds that files hold, for each signature checked against its inputs; raises as `feeds`."""
        found = {}
        for key, infos in inputs.items():
            with _naming_signature(key, "--signature leaves signatures out."):
                found[key] = self.read(infos)
        return found

    def read(self, inputs: Sequence[TensorInfo]) -> list[Feed]:
        """Returns the feeds that files hold, checked against the inputs; raises as `feeds`."""
        from tf_opt.feeds import check_feeds

        if self.arguments.texts:
            from tf_opt.cli.text_feeds import text_feeds

            return text_feeds(
                self.arguments.texts,
                self.arguments.tokenizer,
                inputs,
                names=self.text_inputs,
                batch_size=self.arguments.batch_size or DEFAULT_BATCH_SIZE,
                maximum_length=self.arguments.maximum_length,
            )
        from tf_opt.cli.feed_files import read_arrays

        feeds: list[Feed] = []
        for path in self.arguments.feeds or ():
            arrays = read_arrays(path)
            try:
                check_feeds([arrays], inputs)
            except InvalidFeedError as error:
                raise FeedFileError(f"{path}: {str(error).removeprefix('Feed 0: ')}") from error
            feeds.append(arrays)
        return feeds


@contextlib.contextmanager
def _naming_signature(key: str, advice: str) -> Iterator[None]:
    """Says in an error of feeds which signature they were for; there is no key where there are no signatures."""
    try:
        yield
    except InvalidFeedError as error:
        if not key:
            raise
        raise type(error)(f"The signature {key!r}: {error} {advice}") from error


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name or not value:
        raise typer.BadParameter(
            f"{text!r} is no pair; expected NAME=INPUT, such as input_ids=token_ids.", param_hint="--text-input"
        )
    return name, value
