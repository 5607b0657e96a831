"""Sessions of ONNX Runtime over a model whose weights are TensorFlow's memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tf_opt.engines.onnxruntime.element_types import onnx_type
from tf_opt.engines.onnxruntime.providers import (
    CHAINS,
    Provider,
    check_session,
    preload_libraries,
    provider_options,
)
from tf_opt.errors import EngineUnavailableError

if TYPE_CHECKING:
    from tf_opt.ops.python_runtime import Array

_WEIGHT_PREFIX = "weight_"
_ONLY_FATAL = 4


def create_session(
    model: bytes,
    provider: Provider,
    *,
    threads: int,
    weights: Sequence[Array] | None = None,
    optimize: bool = True,
    device: int = 0,
    stream: int | None = None,
) -> Any:
    """Returns an InferenceSession.

    Args:
        model: Serialized ONNX model.
        provider: Where it runs.
        threads: CPU threads of one run.
        weights: Values of the graph inputs `weight_<i>`, which become constants over this memory; None leaves them
            graph inputs.
        optimize: Whether ONNX Runtime rewrites the graph; reading it and finding kernels needs none of that.
        device: CUDA's number of the GPU.
        stream: The CUDA stream to work on; None leaves it to ONNX Runtime.

    Raises:
        EngineUnavailableError: The session would run on another provider.
        Exception: What ONNX Runtime raises for a model that it refuses; its classes share no base below Exception.
    """
    import onnxruntime

    if provider != "cpu":
        preload_libraries()
    options = session_options(threads, provider)
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    values: list[Any] = []
    if weights is not None:
        model, names = declare_external(model)
        # Weights that only the fallback reads are none of the model's.
        arrays = [weights[int(name.removeprefix(_WEIGHT_PREFIX))] for name in names]
        values = [
            onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, onnx_type(array.dtype)) for array in arrays
        ]
        # Makes them known to the graph, whose optimization may read and replace them. This alone would copy them.
        options.add_external_initializers(names, values)
        if provider == "cpu":
            for name, value in zip(names, values, strict=True):
                # Has the session use this memory for those that are left.
                options.add_initializer(name, value)
    chain = list(CHAINS[provider])
    try:
        session = onnxruntime.InferenceSession(
            model,
            options,
            providers=chain,
            provider_options=provider_options(provider, device=device, stream=stream),
            # Otherwise a provider that fails is exchanged for another with no more than a printed line.
            enable_fallback=0,
        )
    except ValueError as error:
        raise EngineUnavailableError(f"ONNX Runtime does not take the provider {chain[0]}: {error}") from error
    check_session(session, provider)
    # The session refers to their memory.
    session.tf_opt_weights = (weights, values)
    return session


def session_options(threads: int, provider: Provider) -> Any:
    """Returns the SessionOptions of all sessions, the op's own included.

    Args:
        threads: CPU threads of one run.
        provider: Where the session runs.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # An output that turns out to have another shape than expected is no error, and errors are raised anyway.
    options.log_severity_level = _ONLY_FATAL
    # Threads wait for more work by spinning; once no run is left they stop, so that TensorFlow's get the cores.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if provider == "cpu":
        # A Gemm with a bias has no kernel for quantized matrices and computes in floating point; apart, the product is
        # one of integers, and the bias goes into the Gelu or sum behind it.
        options.add_session_config_entry("optimization.disable_specified_optimizers", "MatMulAddFusion")
    return options


def declare_external(model: bytes) -> tuple[bytes, list[str]]:
    """Turns the graph inputs `weight_<i>` into initializers with external data, which ONNX Runtime is given by name.

    Returns:
        The changed model, and the names of these inputs.
    """
    import onnx

    proto = onnx.ModelProto.FromString(model)
    graph = proto.graph
    weights = [value for value in graph.input if value.name.startswith(_WEIGHT_PREFIX)]
    kept = [value for value in graph.input if not value.name.startswith(_WEIGHT_PREFIX)]
    for value in weights:
        tensor_type = value.type.tensor_type
        initializer = graph.initializer.add(
            name=value.name,
            data_type=tensor_type.elem_type,
            dims=[dimension.dim_value for dimension in tensor_type.shape.dim],
            data_location=onnx.TensorProto.EXTERNAL,
        )
        initializer.external_data.add(key="location", value=value.name)
    del graph.input[:]
    graph.input.extend(kept)
    return proto.SerializeToString(), [str(value.name) for value in weights]
