"""The default passes over a frozen, light GraphDef, and the reason for their order."""

from __future__ import annotations

from tf_opt.passes.tf.casts_to_bool import CastsToBool
from tf_opt.passes.tf.collapse_tensordot import CollapseTensordot
from tf_opt.passes.tf.erfc_to_erf import ErfcToErf
from tf_opt.passes.tf.fold_constants import FoldConstants
from tf_opt.passes.tf.fold_shape_arithmetic import FoldShapeArithmetic
from tf_opt.passes.tf.fold_transposes_into_matmul import FoldTransposesIntoMatMul
from tf_opt.passes.tf.last_axis_of_means import LastAxisOfMeans
from tf_opt.passes.tf.lower_einsum import LowerEinsum
from tf_opt.passes.tf.merge_duplicates import MergeDuplicates
from tf_opt.passes.tf.merge_reshapes import MergeReshapes
from tf_opt.passes.tf.merge_transposes import MergeTransposes
from tf_opt.passes.tf.pass_base import Fixpoint, GraphPass
from tf_opt.passes.tf.prune import Prune
from tf_opt.passes.tf.remove_broadcasts import RemoveBroadcasts
from tf_opt.passes.tf.squeeze_axes import SqueezeAxes


def graph_passes() -> list[GraphPass | Fixpoint]:
    """Returns the passes for the graph that TensorFlow runs and that segments are cut from; edit the list freely."""
    return [
        # First: pass-through nodes hide every pattern, and each later pass costs time per node.
        Prune(),
        # A third to a half of a frozen graph are equal small constants; everything after costs time per node.
        MergeDuplicates(),
        # Before the symbolic analysis, which then has fewer nodes and more known permutations, axes and begins.
        FoldConstants(),
        # Constant folding leaves Identity nodes and control edges where it replaced something.
        Prune(),
        # What stays TensorFlow has to be right where oneDNN is on.
        LastAxisOfMeans(),
        # Local rewrites that need no shapes.
        ErfcToErf(),
        CastsToBool(),
        MergeTransposes(),
        FoldTransposesIntoMatMul(),
        # Before the folding of shape arithmetic, which then sees the Reshapes that this one adds.
        LowerEinsum(),
        FoldShapeArithmetic(),
        # After it: with constant targets, chains and broadcasts are recognized by their shapes.
        RemoveBroadcasts(),
        MergeReshapes(),
        SqueezeAxes(),
        # Folding makes equal nodes of what differed in its shape arithmetic.
        MergeDuplicates(),
        Prune(),
    ]


def export_passes() -> list[GraphPass | Fixpoint]:
    """Returns the passes that run on top of `graph_passes` on a segment that goes to an exporter.

    They give engines what they like best, at a cost if TensorFlow itself ran the result.
    """
    return [
        CollapseTensordot(),
        # Bypassed Reshapes now touch each other, and their targets may have become the shapes of their inputs.
        FoldShapeArithmetic(),
        MergeReshapes(),
        MergeDuplicates(),
    ]


GRAPH_PASSES: tuple[GraphPass | Fixpoint, ...] = tuple(graph_passes())
"""The default passes for the graph that TensorFlow runs; passes hold no state, so the instances may be shared."""

EXPORT_PASSES: tuple[GraphPass | Fixpoint, ...] = tuple(export_passes())
"""The default passes for a segment that goes to an exporter, run on top of GRAPH_PASSES."""
