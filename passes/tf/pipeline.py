"""The default passes over a frozen, light GraphDef, and the reason for their order."""

from __future__ import annotations

from tf_opt.passes.tf.fold_constants import FoldConstants
from tf_opt.passes.tf.fold_shape_arithmetic import FoldShapeArithmetic
from tf_opt.passes.tf.pass_base import Fixpoint, GraphPass
from tf_opt.passes.tf.prune import Prune


def graph_passes() -> list[GraphPass | Fixpoint]:
    return [Prune(), FoldConstants(), Prune(), FoldShapeArithmetic(), Prune()]
