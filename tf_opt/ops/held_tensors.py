"""Tensors in this process's memory that Const nodes refer to by number instead of holding their values.

See `held_constant.cc` for what a Const node has to look like.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from tensorflow.core.framework import node_def_pb2

from tf_opt.ops.build import native_functions

KERNEL_LABEL = b"TfOptHeld"
ID_ATTRIBUTE = "_tf_opt_held"
HOST_KERNEL_LABEL = b"TfOptHost"
"""The attribute `_kernel` of a Const node that stays in host memory where its reader is on a GPU; see
`host_constant.cc`."""


class HeldTensor:
    """One tensor. Its memory is freed once this object is closed or gone and no session refers to the tensor.

    Attributes:
        id: What a Const node refers to it by.
        bytes: Its memory, to be written before a session runs. Not to be used once the tensor is closed.
    """

    def __init__(self, dtype: int, shape: Sequence[int]) -> None:
        """Allocates the tensor.

        Args:
            dtype: TensorFlow's number of a type of fixed size.
            shape: Dimensions.

        Raises:
            OpBuildError: The op could not be compiled or loaded.
            MemoryError: There is not enough memory, or the type is of no fixed size.
        """
        functions = native_functions()
        hold = functions.TfOptHoldTensor
        hold.restype = ctypes.c_int64
        hold.argtypes = (
            ctypes.c_int,
            ctypes.POINTER(ctypes.c_int64),
            ctypes.c_int,
            ctypes.POINTER(ctypes.c_void_p),
            ctypes.POINTER(ctypes.c_uint64),
        )
        functions.TfOptReleaseTensor.argtypes = (ctypes.c_int64,)
        functions.TfOptReleaseTensor.restype = None
        data, size = ctypes.c_void_p(), ctypes.c_uint64()
        dimensions = (ctypes.c_int64 * len(shape))(*shape)
        self.id = int(hold(dtype, dimensions, len(shape), ctypes.byref(data), ctypes.byref(size)))
        if self.id == 0:
            raise MemoryError(f"There is no memory for {math.prod(shape)} elements of TensorFlow's type {dtype}.")
        # TensorFlow gives a tensor without elements no memory.
        memory = (ctypes.c_uint8 * size.value).from_address(data.value or 0)
        self.bytes: np.ndarray[Any, np.dtype[np.uint8]] = np.ctypeslib.as_array(memory)
        self.close = weakref.finalize(self, functions.TfOptReleaseTensor, self.id)
        # A process that ends frees its memory anyway, and the library may be gone by then.
        self.close.atexit = False


def refer(constant: node_def_pb2.NodeDef, tensor: HeldTensor) -> None:
    """Makes a Const node, of which name, dtype and shape are set, take its value from `tensor`."""
    # No reader makes a value of this: whatever would compute with it leaves the node as it is instead.
    constant.attr["value"].tensor.dtype = 0
    if constant.attr["_kernel"].s != HOST_KERNEL_LABEL:  # That kernel takes values from memory too.
        constant.attr["_kernel"].s = KERNEL_LABEL
    constant.attr[ID_ATTRIBUTE].i = tensor.id
