"""A signature of a loaded SavedModel that runs as it is: with lookup tables and all else that cannot be frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import graph_pb2

from tf_opt.errors import FreezeError
from tf_opt.feeds import Array, Feed, normalize_feed
from tf_opt.frozen_graph import FrozenGraph, GraphBorder
from tf_opt.tensor_info import TensorInfo


@dataclass(frozen=True, kw_only=True, eq=False)
class SignatureFunction(GraphBorder):
    """What a FrozenGraph is for models that cannot be frozen: a border, and something that runs.

    The names of its inputs and outputs are the signature's own, which `dataclasses.replace` may give other keys.

    Attributes:
        function: The signature.
        owner: The loaded model, to which the function holds its variables and tables only weakly.
    """

    function: Any = field(repr=False)
    owner: Any = field(repr=False, default=None)

    @property
    def frozen_border(self) -> FrozenGraph:
        """The border as that of a graph of which nothing else is known."""
        return FrozenGraph(graph_def=graph_pb2.GraphDef(), inputs=self.inputs, outputs=self.outputs)

    def run(self, feed: Feed) -> dict[str, Array]:
        """Calls the signature once.

        Args:
            feed: Values by input key.

        Returns:
            Arrays by output key.

        Raises:
            InvalidFeedError: The feed does not fit the inputs.
        """
        arrays = normalize_feed(feed, self.inputs)
        tensors = {_keyword(info): tf.constant(arrays[info.name], dtype=info.dtype) for info in self.inputs}
        found = self.function(**tensors)
        return {info.key: found[_keyword(info)].numpy() for info in self.outputs}


def described(function: Any) -> Any:
    """Returns a SignatureFunction for one of the `signatures` of a loaded SavedModel, and anything else as it is.

    Raises:
        FreezeError: The signature takes or returns something else than dense tensors.
    """
    taken = getattr(function, "structured_input_signature", None)
    # Other functions of TensorFlow may take positions, or return something without names.
    if taken is None or taken[0] or not isinstance(getattr(function, "structured_outputs", None), Mapping):
        return function
    return signature_function(function)


def signature_function(function: Any, owner: Any = None) -> SignatureFunction:
    """Describes a signature of a loaded SavedModel.

    Args:
        function: One of the `signatures` of what `tf.saved_model.load` returned.
        owner: What it returned; None where the caller keeps it.

    Raises:
        FreezeError: It takes or returns something else than dense tensors.
    """
    inputs = function.structured_input_signature[1]
    return SignatureFunction(
        inputs=tuple(_info(key, inputs[key]) for key in sorted(inputs)),
        outputs=tuple(_info(key, each) for key, each in sorted(function.structured_outputs.items())),
        function=function,
        owner=owner,
    )


def _info(key: str, described: Any) -> TensorInfo:
    if not (isinstance(described, tf.TensorSpec) or tf.is_tensor(described)) or described.dtype in (
        tf.resource,
        tf.variant,
    ):
        raise FreezeError(f"{key!r} is no dense tensor but {described}, which no feed can hold.")
    shape = described.shape
    sizes = None if shape.rank is None else tuple(shape.as_list())
    return TensorInfo(name=f"{key}:0", dtype=described.dtype.base_dtype.name, shape=sizes, key=key)


def _keyword(info: TensorInfo) -> str:
    return info.name.removesuffix(":0")
