"""The variables of a SavedModel that is written: one for each content, whoever reads it."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from tf_opt.feeds import Array
from tf_opt.freeze.function import host_array
from tf_opt.tensor_info import TensorInfo
from tf_opt.weights import WeightStore

Variable: TypeAlias = Any
"""A `tf.Variable`; TensorFlow has no types."""

Tensor: TypeAlias = Any
"""A `tf.Tensor`."""

_READABLE_FROM_INT32 = frozenset("float16 bfloat16 float32 float64 int8 uint8 int16 uint16 uint32 int64 uint64".split())

_Kind: TypeAlias = tuple[str, tuple[int, ...]]


class WeightVariables:
    """Gives a variable for each weight: one that has its content already, or a new one."""

    def __init__(self, present: Iterable[Variable] = ()) -> None:
        """Takes the variables of the model that was loaded; what equals one of them needs no second copy."""
        self.used: dict[int, Variable] = {}
        self._unread: defaultdict[_Kind, list[Variable]] = defaultdict(list)
        for variable in present:
            if variable.shape.is_fully_defined():
                self._unread[variable.dtype.base_dtype.name, tuple(variable.shape.as_list())].append(variable)
        self._by_content: dict[tuple[_Kind, str], Variable] = {}
        self._digests: dict[int, tuple[object, str]] = {}
        self._by_address: dict[tuple[int, int], tuple[Array, str]] = {}

    def digest(self, store: WeightStore, name: str) -> str:
        """Returns a digest of the bytes of a weight, which is computed once for each Const node."""
        node = store.node(name)
        if id(node) not in self._digests:
            # The node is kept so that no other gets its identity.
            self._digests[id(node)] = (node, self._digest(store.array(name)))
        return self._digests[id(node)][1]

    def variable(self, store: WeightStore, name: str) -> Variable:
        """Returns the variable that holds the weight `name`."""
        info = store.info(name)
        kind = (info.dtype, tuple(size or 0 for size in info.shape or ()))
        for variable in self._unread.pop(kind, ()):
            try:
                value = host_array(variable)
            except tf.errors.FailedPreconditionError:  # It was never given a value.
                continue
            self._by_content.setdefault((kind, self._digest(value)), variable)
        content = (kind, self.digest(store, name))
        if content not in self._by_content:
            # An engine on the CPU reads its weights from host memory.
            with tf.device("CPU:0"):
                self._by_content[content] = tf.Variable(store.array(name), trainable=False, name=_readable(name))
        return self._use(self._by_content[content])

    def host_weight(self, store: WeightStore, name: str) -> Variable | None:
        """Returns a variable that stays in host memory wherever it is loaded, for `read_host_weight`.

        TensorFlow places variables on a GPU where there is one, and would copy those that an engine node reads back to
        the host in every run. Only int32 always stays in host memory, so the bytes are stored as such.

        Returns:
            The variable, or None where the dtype cannot be read out of int32.
        """
        info = store.info(name)
        if info.dtype not in _READABLE_FROM_INT32:
            return None
        content = (("host", ()), self.digest(store, name))
        if content not in self._by_content:
            values = store.array(name).reshape(-1).view(np.uint8)
            padded = np.pad(values, (0, -values.size % 8)) if values.size % 8 else values
            with tf.device("CPU:0"):
                self._by_content[content] = tf.Variable(padded.view(np.int32), trainable=False, name=_readable(name))
        return self._use(self._by_content[content])

    def _use(self, variable: Variable) -> Variable:
        self.used[id(variable)] = variable
        return variable

    def _digest(self, array: Array) -> str:
        """Returns a digest of an array; memory that several arrays share is read once."""
        if not array.flags.c_contiguous:
            array = np.ascontiguousarray(array)
        place = (array.ctypes.data, array.nbytes)
        if place not in self._by_address:
            # The array is kept so that no other gets its memory.
            self._by_address[place] = (array, hashlib.sha256(array.reshape(-1).view(np.uint8).data).hexdigest())
        return self._by_address[place][1]


def read_host_weight(variable: Variable, info: TensorInfo) -> Tensor:
    """Returns the weight that `WeightVariables.host_weight` put into a variable, without a copy.

    Args:
        variable: The variable.
        info: The weight's dtype and shape.
    """
    dtype = tf.as_dtype(info.dtype)
    shape = [int(size or 0) for size in info.shape or ()]
    with tf.device("CPU:0"):
        words = tf.raw_ops.ReadVariableOp(resource=variable.handle, dtype=tf.int32)
        if dtype.size > 4:
            words = tf.reshape(words, [-1, dtype.size // 4])
        values = tf.reshape(tf.bitcast(words, dtype), [-1])
        elements = int(np.prod(shape))
        return tf.reshape(values if values.shape[0] == elements else values[:elements], shape)


def _readable(name: str) -> str:
    # Some characters are not allowed in a variable's name.
    return re.sub(r"[^A-Za-z0-9_./-]", "_", name).strip("/_") or "weight"
