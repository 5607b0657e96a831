"""The options of `Tf2TrtOpt`: one frozen dataclass, checked once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from tf_opt.engines import engine_names
from tf_opt.errors import InvalidOptionError, UnknownEngineError, did_you_mean
from tf_opt.tolerance import Tolerance

if TYPE_CHECKING:
    from tensorflow.core.framework.node_def_pb2 import NodeDef

    from tf_opt.engines.tensorrt.settings import TensorRTSettings
    from tf_opt.quantization import QuantizationSettings

    NodeFilter: TypeAlias = Callable[[NodeDef], bool]

Precision: TypeAlias = Literal["fp32", "fp16", "bf16", "int8", "auto"]
AdoptPolicy: TypeAlias = Literal["measured", "always"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a graph is optimized. Unknown or impossible values raise InvalidOptionError when the object is made."""

    engine: str | Sequence[str] = "auto"
    # Which backend builds the engines; "auto" takes the first of TensorRT, ONNX Runtime on a GPU and OpenVINO that can
    # run on this machine, but ONNX Runtime for int8 on x86 processors without VNNI; "fastest" optimizes with every one
    # that can, and keeps the result that measures fastest. Of several names, each engine gets what those before refuse.

    tensorrt: TensorRTSettings | None = None
    # How TensorRT builds and runs its engines: shape profiles, workspace, timing cache. None: the defaults.

    precision: Precision = "fp32"
    # What engines compute in: "fp32"; "fp16" or "bf16", with LayerNorm, softmax and the like kept in fp32; "int8" for
    # the matrix products and convolutions, calibrated with the feeds, and the rest in the device's fastest type; "auto"
    # tries all that the device has hardware for, and keeps the fastest within tolerance.

    tolerance: Tolerance | None = None
    # How far outputs may be from the original's. None: rtol and atol for fp32, a cosine for the other precisions.

    quantization: QuantizationSettings | None = None
    # How "int8" quantizes: excluded nodes, smooth quantization, size of the calibration set. None: the defaults.

    tuning_seconds: float = 60.0
    # Budget of "auto" for moving layers back from int8 until the outputs are within tolerance.

    skip_padding: str | None = None
    # Name of the attention mask's input: engines then leave padded positions out of all token-wise work. Outputs at
    # padded positions become zero, so it has to be asked for.

    minimum_segment_size: int = 3
    # Segments with fewer compute nodes stay TensorFlow: entering an engine costs more than a few nodes can save.

    dynamic_opt: bool = True
    # True: dimensions that the graph leaves open stay open in the engine. False: an input dimension that is the same in
    # all of test_data becomes fixed, in the returned graph too, so that everything that depends on it folds away.

    supported_list: Sequence[str] | None = None
    # Only nodes of these ops may enter an engine (all that the converter knows, where None).

    denied_ops: Sequence[str] = ()
    # Nodes of these ops stay TensorFlow.

    supported_nodes: Sequence[str] | None = None
    # Only nodes with these names may enter an engine; fnmatch patterns such as "encoder/*".

    denied_nodes: Sequence[str] = ()
    # Nodes with these names stay TensorFlow; fnmatch patterns.

    node_filter: NodeFilter | None = None
    # Asked for each node that would enter an engine; False keeps it in TensorFlow.

    adopt: AdoptPolicy = "measured"
    # "measured": a segment that is outside tolerance or slower on test_data goes back to TensorFlow. "always": it
    # stays, uncompared, so that neither a tolerance nor precision "auto" has a meaning.

    rtol: float = 1e-6
    # Relative tolerance of the comparison with the original outputs.

    atol: float = 1e-3
    # Absolute tolerance: fp32 engines sum in another order than TensorFlow, which shows in the fourth decimal in BERT.

    measurement_seconds: float = 5.0
    # Budget of one measurement for adoption, shared by the shapes in test_data; it stops earlier once the answer is
    # clear, and goes beyond for a shape that could not be run three times.

    strict: bool = False
    # True: a segment whose engine cannot be built raises. False: it stays TensorFlow, and the report has the reason.

    keep_fallback: bool = True
    # Keeps the original nodes as a function beside each engine, for shapes that the engine does not take. It holds no
    # weights of its own.

    maximum_cached_engines: int = 16
    # At most this many shapes have an engine of their own beside the dynamic one; the least recently used gives its
    # place to one that comes much more often.

    specialize_after: int = 100
    # After this many runs with the same input shapes, an engine for just these is compiled in the background, and kept
    # if it measures faster; 0: never. Each holds a packed copy of the weights, so a shape has to come often.

    cache: bool = True
    # Keeps the result on disk: the same model, feeds and options on the same machine are optimized once.

    cache_dir: str | Path | None = None
    # Folder of the results; None: "optimizations" in the user's cache folder of tf_opt.

    dump_dir: str | Path | None = None
    # Where each optimization writes down, in a new numbered folder, the graph after every pass, each segment with its
    # models, engines and feeds, and scripts that replay the segments.

    progress: bool = True
    # Progress bars on a terminal; none without one.

    def __post_init__(self) -> None:
        self._check_engine()
        if self.adopt not in get_args(AdoptPolicy):
            raise InvalidOptionError(f"adopt is {self.adopt!r}; expected one of {', '.join(get_args(AdoptPolicy))}.")
        if self.precision not in get_args(Precision):
            raise InvalidOptionError(
                f"precision is {self.precision!r}; expected one of {', '.join(get_args(Precision))}."
                f"{did_you_mean(str(self.precision), get_args(Precision))}"
            )
        if self.tolerance is not None and not isinstance(self.tolerance, Tolerance):
            raise InvalidOptionError(
                f"tolerance is {self.tolerance!r}; expected a tf_opt.Tolerance, such as Tolerance(cosine=0.99)."
            )
        if self.quantization is not None and type(self.quantization).__name__ != "QuantizationSettings":
            raise InvalidOptionError(
                f"quantization is {self.quantization!r}; expected a tf_opt.QuantizationSettings, such as "
                "QuantizationSettings(denied_nodes=['*/pooler/*'])."
            )
        self._check_judgement()
        if self.skip_padding is not None and (not isinstance(self.skip_padding, str) or not self.skip_padding):
            raise InvalidOptionError(
                f"skip_padding is {self.skip_padding!r}; expected the name of the attention mask's input, or None."
            )
        for name in ("minimum_segment_size", "maximum_cached_engines"):
            self._check_integer(name, minimum=1)
        self._check_integer("specialize_after", minimum=0)
        for name in ("rtol", "atol"):
            self._check_number(name, positive=False)
        self._check_number("measurement_seconds", positive=True)
        self._check_number("tuning_seconds", positive=False)
        for name in ("supported_list", "denied_ops", "supported_nodes", "denied_nodes"):
            self._check_names(name)
        for name in ("dynamic_opt", "strict", "keep_fallback", "cache", "progress"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidOptionError(f"{name} is {getattr(self, name)!r}; expected True or False.")
        for name in ("cache_dir", "dump_dir"):
            folder = getattr(self, name)
            if folder is not None and not isinstance(folder, str | Path):
                raise InvalidOptionError(f"{name} is {folder!r}; expected the path of a folder.")
        if self.node_filter is not None and not callable(self.node_filter):
            raise InvalidOptionError(f"node_filter is {self.node_filter!r}; expected a callable that takes a NodeDef.")

    @classmethod
    def from_keywords(cls, keywords: dict[str, Any]) -> Options:
        """Makes options from keyword arguments.

        Raises:
            InvalidOptionError: A keyword is no option, or its value is not allowed.
        """
        known = [each.name for each in fields(cls)]
        for name in keywords:
            if name not in known:
                raise InvalidOptionError(
                    f"There is no option {name!r}.{did_you_mean(name, known)} The options are: {', '.join(known)}."
                )
        return cls(**keywords)

    def _check_engine(self) -> None:
        is_list = isinstance(self.engine, Sequence) and not isinstance(self.engine, str | bytes)
        named = tuple(self.engine) if is_list else (self.engine,)
        if not all(isinstance(name, str) for name in named):
            raise InvalidOptionError(f"engine is {self.engine!r}; expected a name, or a list of names.")
        known = (*engine_names(), "fastest")
        for name in named:
            if name not in known:
                raise UnknownEngineError(
                    f"There is no engine {name!r}; expected one of {', '.join(known)}.{did_you_mean(str(name), known)}"
                )
        if not named or len(set(named)) < len(named) or (len(named) > 1 and {"auto", "fastest"} & set(named)):
            raise InvalidOptionError(
                f"engine is {self.engine!r}; expected one name, or a list of different ones without 'auto' and "
                "'fastest'."
            )
        if self.engine == "fastest" and self.adopt != "measured":
            raise InvalidOptionError(
                f"engine is 'fastest' and adopt is {self.adopt!r}; what is fastest has to be measured: leave adopt at "
                "'measured', or name an engine."
            )
        if self.tensorrt is not None and type(self.tensorrt).__name__ != "TensorRTSettings":
            raise InvalidOptionError(
                f"tensorrt is {self.tensorrt!r}; expected a tf_opt.TensorRTSettings, such as "
                "TensorRTSettings(optimization_level=5)."
            )

    def _check_judgement(self) -> None:
        """Refuses what would have to be judged where nothing is."""
        if self.adopt == "measured":
            return
        if self.precision == "auto":
            raise InvalidOptionError(
                f"precision is 'auto' and adopt is {self.adopt!r}; which precision is near enough and fastest has to "
                "be measured: leave adopt at 'measured', or name a precision."
            )
        if self.tolerance is not None:
            raise InvalidOptionError(
                f"There is a tolerance, and adopt is {self.adopt!r}, which compares nothing. Leave adopt at "
                "'measured', or leave the tolerance out."
            )

    def _check_integer(self, name: str, minimum: int) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise InvalidOptionError(f"{name} is {value!r}; expected an integer of at least {minimum}.")

    def _check_number(self, name: str, positive: bool) -> None:
        value = getattr(self, name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        # The comparison is written so that NaN fails it.
        if not is_number or not (value > 0 or (value == 0 and not positive)):
            raise InvalidOptionError(
                f"{name} is {value!r}; expected a {'positive' if positive else 'non-negative'} number."
            )

    def _check_names(self, name: str) -> None:
        value = getattr(self, name)
        if value is None:
            return
        if (
            # An iterator would be used up by this very check.
            isinstance(value, str | Iterator)
            or not isinstance(value, Iterable)
            or not all(isinstance(each, str) for each in value)
        ):
            raise InvalidOptionError(f"{name} is {value!r}; expected a list of strings.")
