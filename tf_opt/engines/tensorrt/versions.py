"""What differs between the versions of TensorRT. Everything else in this package is written for all of them.

Enum members are looked up by name and shifted by their own number: the numbers differ between versions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tf_opt.engines.tensorrt.bindings import installed_version
from tf_opt.engines.tensorrt.settings import TensorRTSettings
from tf_opt.errors import EngineBuildError
from tf_opt.onnx_target import OnnxTarget

if TYPE_CHECKING:
    import tensorrt as trt

STRONG_TYPES = (10, 0)
"""The first version whose networks keep the types of the ONNX model, and that knows bfloat16 and int64."""

SHARED_PROFILES = (8, 6)
"""The first version in which several contexts may use one profile at the same time."""

AMPERE = (8, 0)
"""The lowest compute capability of NVIDIA's Ampere GPUs."""


def onnx_target(version: tuple[int, int]) -> OnnxTarget:
    """Returns the forms of ONNX that a version's parser takes."""
    if version >= STRONG_TYPES:
        return OnnxTarget(name="tensorrt", opset=20, gelu=True, int8="tensorrt")
    # The parsers of 8.5 and 8.6 know neither Gelu nor LayerNormalization.
    return OnnxTarget(name="tensorrt", opset=17, gelu=False, layer_normalization=False, int8="tensorrt")


def create_network(builder: trt.Builder) -> trt.INetworkDefinition:
    """Returns an empty network whose types are those of the model, as far as the version keeps them."""
    import tensorrt as trt

    flags = 0
    # STRONGLY_TYPED since 10; EXPLICIT_BATCH is always so since 10, and gone in 11.
    names = ("STRONGLY_TYPED",) if installed_version() >= STRONG_TYPES else ("EXPLICIT_BATCH",)
    for name in names:
        flags |= 1 << int(getattr(trt.NetworkDefinitionCreationFlag, name))
    return builder.create_network(flags)


def compatibility_refusal(settings: TensorRTSettings, capability: tuple[int, int], *, stored: bool) -> str | None:
    """Returns why a GPU can neither build nor run a plan for several kinds of GPU, None where it can or none is wanted.

    Args:
        settings: Of the build.
        capability: The GPU's compute capability.
        stored: Whether the settings come with a stored graph. A version that lacks what they want is a reason then;
            whoever optimizes a graph here gets an error of it.
    """
    level = settings.hardware_compatibility
    if level == "none":
        return None
    if level == "ampere_plus" and capability < AMPERE:
        return (
            f"such a plan needs compute capability {AMPERE[0]}.{AMPERE[1]} or later, and this GPU has "
            f"{capability[0]}.{capability[1]}"
        )
    if stored and _compatibility_level(level) is None:
        return "this TensorRT does not have it"
    return None


def set_builder_flags(config: trt.IBuilderConfig, network: trt.INetworkDefinition, settings: TensorRTSettings) -> None:
    """Sets what a build depends on besides the network.

    Args:
        config: Gets the flags.
        network: The network that will be built.
        settings: What the user wants, as far as the GPU can serve it; see `compatibility_refusal`.

    Raises:
        EngineBuildError: The version does not have what a setting needs.
    """
    import tensorrt as trt

    if settings.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_bytes)
    # On by default: TensorRT would compute float32 products with 10 bits of mantissa.
    if not settings.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if hasattr(config, "builder_optimization_level"):
        config.builder_optimization_level = settings.optimization_level
    if settings.hardware_compatibility != "none":
        level = _compatibility_level(settings.hardware_compatibility)
        if level is None:
            raise _lacks(f"hardware_compatibility={settings.hardware_compatibility!r}")
        config.hardware_compatibility_level = level
    if settings.version_compatible:
        _set_flag(config, "VERSION_COMPATIBLE", "version_compatible=True")
    if settings.strip_weights:
        _set_flag(config, "STRIP_PLAN", "strip_weights=True")
        # The weights that come back are the same ones, which lets TensorRT optimize as if they were constants.
        if hasattr(trt.BuilderFlag, "REFIT_IDENTICAL"):
            config.set_flag(trt.BuilderFlag.REFIT_IDENTICAL)
    if settings.tactic_sources is not None:
        config.set_tactic_sources(_mask(trt.TacticSource, settings.tactic_sources))
    version = installed_version()
    if version < STRONG_TYPES:
        _constrain_precision(config, network)
        preview = getattr(getattr(trt, "PreviewFeature", None), "PROFILE_SHARING_0806", None)
        if preview is not None:
            config.set_preview_feature(preview, True)


def maximum_contexts(settings: TensorRTSettings) -> int:
    """Returns how many execution contexts an engine may have: one before contexts could share a profile."""
    return settings.maximum_contexts if installed_version() >= SHARED_PROFILES else 1


def has_progress_monitor() -> bool:
    """Tells whether the version reports how far a build is."""
    import tensorrt as trt

    return hasattr(trt, "IProgressMonitor")


def error_nodes(errors: Iterable[trt.ParserError], names: list[str]) -> dict[str, list[str]]:
    """Returns the nodes that a parser's errors name, and what these say of each.

    Args:
        errors: The parser's errors.
        names: Names of the model's nodes in their order; versions before 10 give only an index.
    """
    nodes: dict[str, list[str]] = {}
    for error in errors:
        named: str = getattr(error, "node_name", str)()
        index = error.node()
        if not named and 0 <= index < len(names):
            named = names[index]
        if named in names:
            nodes.setdefault(named, []).append(describe_error(error))
    return nodes


def describe_error(error: trt.ParserError) -> str:
    """Returns a parser's error as a sentence with the node and its operator, where they are known."""
    name: str = getattr(error, "node_name", str)()
    operator: str = getattr(error, "node_operator", str)()
    place = (
        f"{name or f'node {error.node()}'} ({operator or 'operator unknown'}): " if name or error.node() >= 0 else ""
    )
    return f"{place}{error.desc()}"


def _compatibility_level(name: str) -> Any:
    """Returns the member of HardwareCompatibilityLevel, None where the version lacks it."""
    import tensorrt as trt

    return getattr(getattr(trt, "HardwareCompatibilityLevel", None), name.upper(), None)


def _set_flag(config: trt.IBuilderConfig, name: str, setting: str) -> None:
    import tensorrt as trt

    flag = getattr(trt.BuilderFlag, name, None)
    if flag is None:
        raise _lacks(setting)
    config.set_flag(flag)


def _mask(members: Any, names: Iterable[str]) -> int:
    mask = 0
    for name in names:
        member = members.__members__.get(name)
        if member is None:
            raise EngineBuildError(
                f"This TensorRT has no tactic source {name!r}; expected some of {', '.join(members.__members__)}."
            )
        mask |= 1 << int(member)
    return mask


def _lacks(setting: str) -> EngineBuildError:
    import tensorrt as trt

    return EngineBuildError(
        f"TensorRT {trt.__version__} does not have what {setting} needs. Leave the setting off, or update TensorRT."
    )


def _constrain_precision(config: trt.IBuilderConfig, network: trt.INetworkDefinition) -> None:
    """Has versions before 10, which choose precisions by themselves, keep to those of the model.

    Each layer that computes a float gets its output's type as its own, and TensorRT has to obey. Layers that read
    dequantized values are left alone: they are to compute in int8.
    """
    import tensorrt as trt

    flags: Any = trt.BuilderFlag
    layers: list[Any] = [network.get_layer(index) for index in range(network.num_layers)]
    quantizing = (trt.LayerType.QUANTIZE, trt.LayerType.DEQUANTIZE)
    dequantized = {
        layer.get_output(0).name for layer in layers if layer.type == trt.LayerType.DEQUANTIZE and layer.num_outputs
    }
    chosen = []
    for layer in layers:
        if layer.type in (*quantizing, trt.LayerType.CONSTANT) or layer.num_outputs == 0:
            continue
        inputs = [tensor.name for index in range(layer.num_inputs) if (tensor := layer.get_input(index)) is not None]
        dtype = layer.get_output(0).dtype
        if dtype in (trt.DataType.HALF, trt.DataType.FLOAT) and dequantized.isdisjoint(inputs):
            chosen.append((layer, dtype))
    if any(dtype == trt.DataType.HALF for _, dtype in chosen):
        config.set_flag(flags.FP16)
        config.set_flag(flags.OBEY_PRECISION_CONSTRAINTS)
        for layer, dtype in chosen:
            layer.precision = dtype
    if any(layer.type == trt.LayerType.QUANTIZE for layer in layers):
        config.set_flag(flags.INT8)
