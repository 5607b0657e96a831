"""Freezes Keras models (Keras 3 and tf-keras) and Hugging Face's TensorFlow models: traces their inference call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import tensorflow as tf

from tf_opt.errors import FreezeError, did_you_mean
from tf_opt.freeze.function import freeze_concrete_function
from tf_opt.frozen_graph import FrozenGraph

KerasModel: TypeAlias = Any
"""A `keras.Model`, `tf_keras.Model` or `transformers.TFPreTrainedModel`."""

TensorSpecLike: TypeAlias = Any
"""A `tf.TensorSpec`, or (shape, dtype) with a shape of ints and Nones."""

InputSpec: TypeAlias = Mapping[str, TensorSpecLike] | Sequence[TensorSpecLike] | TensorSpecLike


def freeze_keras(model: KerasModel, input_spec: InputSpec | None = None) -> FrozenGraph:
    """Freezes the inference call of a model: `training=False`, all variables as constants.

    Args:
        model: A Keras 3 or tf-keras model, or a TensorFlow model of Hugging Face.
        input_spec: What the graph takes: a mapping from input names to `tf.TensorSpec` or (shape, dtype), a list of
            these for a model with several positional inputs, or a single one. None takes what the model itself
            declares: `model.input_signature` of Hugging Face models (token inputs [batch, sequence], int32), else
                `model.inputs`.

    Returns:
        A graph whose inputs are placeholders named as the inputs, and whose outputs "Identity:0", "Identity_1:0", …
        are keyed by the model's output names ("last_hidden_state", "pooler_output", … at Hugging Face).

    Raises:
        FreezeError: The object is no Keras model, declares no inputs and none are given, or does not accept those
            given.
    """
    if not callable(model) or not hasattr(model, "call"):
        raise FreezeError(
            f"Expected a Keras model or a TensorFlow model of Hugging Face, got {type(model).__name__}. Functions "
            "are frozen by tf_opt.freeze_concrete_function, directories by tf_opt.freeze_saved_model."
        )
    specs = _declared_inputs(model) if input_spec is None else _named_specs(model, input_spec)
    _refuse_composites(specs)
    by_name = input_spec is None or isinstance(input_spec, Mapping) or bool(_hugging_face_inputs(model))
    arrange = tf.autograph.experimental.do_not_convert(_arrangement(model, specs, by_name=by_name))
    arguments = {"training": False} if _takes_training(model) else {}

    def call(*tensors: Any) -> Any:
        positional, keywords = arrange(dict(zip(specs, tensors, strict=True)))
        outputs = model(*positional, **keywords, **arguments)
        if isinstance(outputs, Mapping):  # Hugging Face's ModelOutput has entries that are None.
            return {str(name): value for name, value in outputs.items() if value is not None}
        return outputs

    try:
        concrete = _traced(call, list(specs.values()))
    except Exception as error:
        described = ", ".join(f"{name}: {spec.dtype.name} {spec.shape}" for name, spec in specs.items())
        raise FreezeError(
            f"{type(model).__name__} could not be traced with the inputs {described}: {error} Pass the inputs it "
            "takes as input_spec={'name': (shape, dtype), ...}."
        ) from error
    frozen = freeze_concrete_function(concrete)
    names = [] if isinstance(concrete.structured_outputs, Mapping) else _output_names(model, len(frozen.outputs))
    if not names:
        return frozen
    outputs = tuple(replace(info, key=name) for info, name in zip(frozen.outputs, names, strict=True))
    return replace(frozen, outputs=outputs)


def _traced(call: Callable[..., Any], signature: list[tf.TensorSpec]) -> Any:
    """Returns the ConcreteFunction of a call."""
    try:
        # Rewriting each function of a model takes longer than tracing it, and few models need it.
        return tf.function(call, input_signature=signature, autograph=False).get_concrete_function()
    except tf.errors.OperatorNotAllowedInGraphError:
        # Python branches on a tensor, on a sequence length for example, as it may where Keras runs a model itself.
        return tf.function(call, input_signature=signature, autograph=True).get_concrete_function()


def _declared_inputs(model: KerasModel) -> dict[str, tf.TensorSpec]:
    signature = _hugging_face_inputs(model)
    if signature:
        return {name: _spec(name, spec) for name, spec in signature.items()}
    declared = getattr(model, "inputs", None)
    if not declared:
        raise FreezeError(
            f"{type(model).__name__} declares no inputs: it is a subclassed model. Pass them as "
            "input_spec={'name': (shape, dtype), ...}, with None for dimensions that vary."
        )
    structure = _input_structure(model)
    if isinstance(structure, Mapping):
        return {str(name): _spec(str(name), tensor) for name, tensor in structure.items()}
    return {
        _keras_name(tensor, index): _spec(_keras_name(tensor, index), tensor) for index, tensor in enumerate(declared)
    }


def _named_specs(model: KerasModel, input_spec: InputSpec) -> dict[str, tf.TensorSpec]:
    if isinstance(input_spec, Mapping):
        return {str(name): _spec(str(name), spec) for name, spec in input_spec.items()}
    specs = [input_spec] if _is_single(input_spec) else list(input_spec)
    declared = list(getattr(model, "inputs", None) or [])
    names = [_keras_name(tensor, index) for index, tensor in enumerate(declared)] if len(declared) == len(specs) else []
    # Hugging Face's models may be given fewer inputs than they declare, in the order in which they declare them.
    names = names or list(_hugging_face_inputs(model))
    named: dict[str, tf.TensorSpec] = {}
    for index, spec in enumerate(specs):
        name = getattr(spec, "name", None) or (names[index] if index < len(names) else f"input_{index}")
        if name in named:
            raise FreezeError(
                f"Two inputs are named {name!r} in input_spec. Give each its own name: {{'a': ..., 'b': ...}}."
            )
        named[name] = _spec(name, spec)
    return named


def _is_single(spec: Any) -> bool:
    """Tells a (shape, dtype) pair from a list of specs: the former's first entry is a shape of ints and Nones."""
    if not isinstance(spec, (tuple, list)):
        return True
    if len(spec) != 2 or isinstance(spec[1], tf.TypeSpec):
        return False
    first = spec[0]
    if isinstance(first, tf.TensorShape) or first is None:
        return True
    return isinstance(first, (tuple, list)) and all(size is None or isinstance(size, int) for size in first)


def _spec(name: str, spec: TensorSpecLike) -> tf.TensorSpec:
    kind = getattr(spec, "type_spec", spec)  # tf-keras describes its symbolic tensors by one.
    if isinstance(kind, tf.TypeSpec) and not isinstance(kind, tf.TensorSpec):
        return kind  # Composite; refused by name further on.
    if getattr(spec, "sparse", False) is True or getattr(spec, "ragged", False) is True:
        raise FreezeError(
            f"The input {name!r} is a composite tensor (sparse or ragged), which a frozen graph cannot feed. Let the "
            "model take dense tensors and convert inside."
        )
    if hasattr(spec, "shape") and hasattr(spec, "dtype"):
        return tf.TensorSpec(spec.shape, spec.dtype, name=name)
    if isinstance(spec, (tuple, list)) and len(spec) == 2:
        try:
            return tf.TensorSpec(spec[0], spec[1], name=name)
        except TypeError as error:
            raise FreezeError(
                f"The input {name!r} has the specification {spec!r}; expected (shape, dtype), such as ((None, 128), "
                "'int32')."
            ) from error
    raise FreezeError(
        f"The input {name!r} has the specification {spec!r}; expected a tf.TensorSpec or (shape, dtype), such as "
        "((None, 128), 'int32')."
    )


def _refuse_composites(specs: Mapping[str, Any]) -> None:
    for name, spec in specs.items():
        if not isinstance(spec, tf.TensorSpec):
            raise FreezeError(
                f"The input {name!r} is a composite tensor ({type(spec).__name__}), which a frozen graph cannot feed "
                "as one. Let the model take dense tensors and convert inside."
            )


def _hugging_face_inputs(model: KerasModel) -> Mapping[str, Any]:
    """Returns the specifications by name that a model of Hugging Face declares; an empty mapping for other models."""
    signature = getattr(model, "input_signature", None)
    return signature if isinstance(signature, Mapping) else {}


def _input_structure(model: KerasModel) -> Any:
    """Returns the nest of symbolic tensors that a functional model takes; None for other models."""
    try:
        return model.input
    except (AttributeError, ValueError, RuntimeError):  # Each Keras version raises its own for a subclassed model.
        return None


def _arrangement(model: KerasModel, specs: Mapping[str, Any], *, by_name: bool) -> Any:
    """Returns a function from named tensors to the (positional, keyword) arguments that the model takes."""
    structure = _input_structure(model)
    if structure is not None:
        return _functional_arrangement(structure, specs, by_name)
    if not by_name:
        return lambda tensors: ((next(iter(tensors.values())) if len(tensors) == 1 else list(tensors.values()),), {})
    parameters = inspect.signature(model.call).parameters
    if _hugging_face_inputs(model):
        return lambda tensors: ((tensors,), {})  # They unpack a mapping.
    if not set(specs) <= set(parameters):
        return lambda tensors: (tuple(tensors.values()) if len(specs) == 1 else (tensors,), {})
    first = next(iter(parameters))
    # Keras wants its first argument positional.
    return lambda tensors: (
        (tensors[first],) if first in tensors else (),
        {name: tensor for name, tensor in tensors.items() if name != first},
    )


def _functional_arrangement(structure: Any, specs: Mapping[str, Any], by_name: bool) -> Any:
    if isinstance(structure, Mapping):
        names = [str(name) for name in structure]
        _check_names(names, specs)
        return lambda tensors: (({name: tensors[name] for name in names},), {})
    leaves = tf.nest.flatten(structure)
    names = [_keras_name(tensor, index) for index, tensor in enumerate(leaves)]
    if len(names) != len(specs):
        raise FreezeError(f"The model takes {len(names)} inputs ({', '.join(names)}), but input_spec has {len(specs)}.")
    # A single input, or inputs by position, cannot be mixed up whatever they are called.
    order = list(specs)
    if by_name and len(names) > 1:
        _check_names(names, specs)
        order = names
    return lambda tensors: ((tf.nest.pack_sequence_as(structure, [tensors[name] for name in order]),), {})


def _check_names(names: Sequence[str], specs: Mapping[str, Any]) -> None:
    for name in specs:
        if name not in names:
            raise FreezeError(
                f"The model has no input {name!r}.{did_you_mean(name, names)} Its inputs: {', '.join(names)}."
            )
    missing = [name for name in names if name not in specs]
    if missing:
        raise FreezeError(f"input_spec lacks the inputs {', '.join(missing)}. The model takes {', '.join(names)}.")


def _keras_name(tensor: Any, index: int) -> str:
    # tf-keras names of traced inputs carry an output index.
    return (getattr(tensor, "name", None) or f"input_{index}").split(":")[0]


def _takes_training(model: KerasModel) -> bool:
    parameters = inspect.signature(model.call).parameters
    return "training" in parameters or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())


def _output_names(model: KerasModel, count: int) -> list[str]:
    """Returns the names of the model's `count` outputs in order, or an empty list where it has none."""
    names = [str(name) for name in getattr(model, "output_names", None) or []]
    return names if len(names) == count == len(set(names)) else []
