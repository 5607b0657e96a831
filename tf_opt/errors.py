"""Exceptions of tf_opt. Each message says what was wrong, what was expected, and how to fix it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping


class TfOptError(Exception):
    """Base of every error that tf_opt raises on purpose."""


class InvalidOptionError(TfOptError, ValueError):
    """An option of `Tf2TrtOpt` has a value that is not allowed."""


class UnknownEngineError(InvalidOptionError):
    """The engine name is none of the registered ones."""


class EnginePackageMissingError(TfOptError, ImportError):
    """The Python package that an engine needs is not installed."""


class EngineUnavailableError(TfOptError):
    """The engine's package is installed, but the engine cannot run on this machine."""


class UnsupportedPrecisionError(TfOptError, ValueError):
    """The device has no hardware for a precision."""


class EngineBuildError(TfOptError):
    """A backend could not build an engine from a segment.

    Attributes:
        nodes: Names of the nodes of the ONNX model that the backend refused, as far as it named any.
        reasons: What the backend says of each of these nodes, where that is more than the message.
    """

    def __init__(self, message: str, nodes: tuple[str, ...] = (), reasons: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.nodes = nodes
        self.reasons = dict(reasons or {})


class CudaError(TfOptError):
    """A call of the CUDA driver failed; the message names it and what the driver said."""


class CudaUnavailableError(CudaError):
    """There is no NVIDIA driver, or it finds no GPU."""


class EngineRunError(TfOptError):
    """An engine was loaded but could not run; the message has what its library said."""


class EngineBlobCorruptError(TfOptError):
    """The bytes of a stored engine are damaged: wrong magic, length or checksum."""


class EngineBlobVersionError(TfOptError):
    """A stored engine was written in a layout that this version does not read."""


class OpBuildError(TfOptError):
    """The native TensorFlow op could not be compiled or loaded."""


class UnknownOutputError(TfOptError, KeyError):
    """A requested output is no tensor of the graph."""

    def __str__(self) -> str:  # KeyError shows its argument quoted and escaped; the message is meant to be read.
        return str(self.args[0])


class InvalidFeedError(TfOptError, ValueError):
    """A feed is missing, unknown, or of the wrong dtype, rank or shape."""


class UnfeedableInputError(InvalidFeedError):
    """No feed can be made up for an input: it leaves open how large it is, or is of a dtype that nothing tells of."""


class OriginalGraphError(InvalidFeedError):
    """The graph that is to be optimized fails on a feed."""


class GraphNotFrozenError(TfOptError, ValueError):
    """The GraphDef still holds variables or other state, so it cannot be optimized."""


class UnknownOpError(TfOptError, ValueError):
    """The GraphDef uses an op that has no registered definition or kernel in this process."""


class FreezeError(TfOptError):
    """A model could not be turned into a FrozenGraph."""


class LookupTableError(FreezeError):
    """A model looks something up in a table, which a frozen graph cannot hold."""


class InvalidSavedModelError(FreezeError):
    """A folder is no SavedModel, or none that TensorFlow can load here."""


class UnknownSignatureError(FreezeError, KeyError):
    """A SavedModel has no signature of that name."""

    def __str__(self) -> str:  # KeyError shows its argument quoted and escaped.
        return str(self.args[0])


class OutputExistsError(TfOptError, FileExistsError):
    """What is to be written exists, or its place is one where writing would damage something else."""


class InvalidGraphError(TfOptError, ValueError):
    """A GraphDef is inconsistent: duplicate names, missing inputs, or an unreadable file."""


class PassError(TfOptError):
    """A graph pass failed; the message names it and the passes that ran before it."""


class SkipPaddingError(TfOptError):
    """A segment's work cannot be confined to the real tokens; the message names the node that stands in the way."""


class CalibrationError(TfOptError):
    """A segment could not be calibrated for quantization."""


class ModelPathError(TfOptError):
    """A path that should hold a model holds none, or one of another kind."""


class OutputPathError(TfOptError):
    """A result cannot be written where it was asked for."""


class OutputWriteError(TfOptError, OSError):
    """A result could not be written whole, such as on a full disk; nothing of it is left."""


class FeedFileError(InvalidFeedError):
    """A file with arrays or texts cannot be read; the message names it, and the line where there is one."""


class TokenizerError(TfOptError):
    """A folder that should hold a tokenizer of Hugging Face holds none that loads."""


class ReportError(TfOptError, ValueError):
    """What should be a stored report is none, or one that this version does not read."""


class DumpError(TfOptError):
    """A dump cannot be written or read; the message names the file and what the system said."""


class ExportError(TfOptError):
    """A segment could not be exported to ONNX.

    Attributes:
        nodes: The nodes that the converter blamed, as far as it named any.
    """

    def __init__(self, message: str, nodes: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.nodes = nodes


class ExporterVersionError(TfOptError, ImportError):
    """The installed tf2onnx lacks something that an export calls; the message names the releases that have it."""


def nearest_names(name: str, candidates: Iterable[str], count: int = 3) -> list[str]:
    """Returns up to `count` candidates that look most like `name`, best first."""
    return difflib.get_close_matches(name, list(candidates), n=count, cutoff=0.4)


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """Returns a sentence that suggests the nearest candidates, or an empty string where none is near."""
    near = nearest_names(name, candidates)
    return f" Did you mean {' or '.join(repr(candidate) for candidate in near)}?" if near else ""
