"""Moves a model to a newer version of the default operator set."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cache
from typing import ClassVar

import numpy as np
import onnx
import onnx_ir as ir

from tf_opt.passes.onnx.nodes import add_constant, attribute, attributes_of, optional_argument
from tf_opt.passes.onnx.pass_base import OnnxPass

_REDUCTIONS = frozenset(
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSumSquare".split()
)
"""Reductions whose axes were an attribute before opset 18, and are an input since."""

_COMPATIBLE = frozenset(
    "Acos Acosh Asin Asinh Atan Atanh Bernoulli Cast CastLike Constant ConstantOfShape Conv ConvTranspose Cos Cosh "
    "DequantizeLinear Det Dropout Elu Equal EyeLike Flatten GRU GlobalAveragePool GlobalLpPool GlobalMaxPool "
    "HardSigmoid HardSwish Identity If InstanceNormalization IsInf IsNaN LSTM Loop LpNormalization MaxRoiPool "
    "MaxUnpool Multinomial OptionalGetElement OptionalHasElement Pad QLinearMatMul QuantizeLinear RNN RandomNormal "
    "RandomNormalLike RandomUniform RandomUniformLike Reshape Resize RoiAlign Round Scan ScatterElements ScatterND "
    "Selu Shape Sin Sinh Size Softplus Softsign Squeeze Tan ThresholdedRelu Transpose Unsqueeze".split()
)
"""Operators that changed between opsets 17 and 23 by further types, or by attributes and inputs whose default is what
was before; from the operators' changelog in the ONNX specification."""


class RaiseOpset(OnnxPass):
    """Raises the version of the default operator set, as far as every operator keeps its meaning.

    Reductions get their axes as an input, and an even Split says its number of outputs. A model with an operator whose
    definition changed otherwise (DFT, GridSample, pooling with ceil_mode, ...) stays as it is, and so does one that is
    as new already, one that holds functions of its own, and one that has nothing to gain.

    Before, at opset 17:
        y = ReduceMax<axes=[1]>(x)
    After, at opset 20:
        y = ReduceMax(x, [1])
    """

    name: ClassVar[str] = "raise_opset"

    def __init__(self, opset: int, gaining: Collection[str] | None = None) -> None:
        """Keeps its arguments.

        Args:
            opset: The version to raise to, at most 23.
            gaining: Operators for which it is worth it; None raises every model.
        """
        self.opset = opset
        self.gaining = gaining

    def run(self, model: ir.Model) -> int:
        """See `OnnxPass.run`."""
        present = model.opset_imports.get("")
        if present is None or present >= self.opset or present < 13 or model.functions:
            return 0
        nodes = [node for node in model.graph.all_nodes() if node.domain == ""]
        if self.gaining is not None and not any(node.op_type in self.gaining for node in nodes):
            return 0
        changed = [node for node in nodes if _differs(node.op_type, present, self.opset)]
        if not all(_can_adapt(node) for node in changed):
            return 0
        if present < 18:  # What is adapted changed in opset 18.
            for node in changed:
                if (adapt := _ADAPTERS.get(node.op_type)) is not None:
                    adapt(node, model.graph)
        model.opset_imports[""] = self.opset
        imports = [onnx.helper.make_opsetid("", self.opset)]
        needed = int(onnx.helper.find_min_ir_version_for(imports))
        model.ir_version = max(model.ir_version or 0, needed)
        return 1


@cache
def _differs(op_type: str, present: int, wanted: int) -> bool:
    """Whether the definition of an operator changed between two versions, or is not known."""
    if not onnx.defs.has(op_type, present) or not onnx.defs.has(op_type, wanted):
        return True
    return int(onnx.defs.get_schema(op_type, present).since_version) != int(
        onnx.defs.get_schema(op_type, wanted).since_version
    )


def _can_adapt(node: ir.Node) -> bool:
    """Whether a node whose operator changed means the same, or can be made to."""
    if node.op_type in ("AveragePool", "LpPool", "MaxPool"):
        return attribute(node, "ceil_mode", 0) == 0  # Which windows count at the far end was settled in between.
    return node.op_type in _COMPATIBLE or node.op_type in _ADAPTERS


def _axes_to_input(node: ir.Node, graph: ir.Graph) -> None:
    axes = attributes_of(node, "axes")
    if axes is None:
        return
    del node.attributes["axes"]
    node.resize_inputs(2)
    node.replace_input_with(1, add_constant(graph, np.array(axes, np.int64), f"{node.name}/axes"))


def _state_outputs(node: ir.Node, graph: ir.Graph) -> None:
    if optional_argument(node, 1) is None and "num_outputs" not in node.attributes:
        node.attributes["num_outputs"] = ir.AttrInt64("num_outputs", len(node.outputs))


_ADAPTERS: dict[str, Callable[[ir.Node, ir.Graph], None]] = {
    "Split": _state_outputs,
    **dict.fromkeys(_REDUCTIONS, _axes_to_input),
}
"""What has to be changed in nodes of opset 17 and before."""
