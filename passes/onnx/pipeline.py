"""The passes that bring an exported segment into one form, and those that write it the way an engine wants it."""

from __future__ import annotations

from tf_opt.onnx_target import GELU_OPSET, OnnxTarget
from tf_opt.passes.onnx.bias_after_matmul import BiasAfterMatMul
from tf_opt.passes.onnx.canonical_attention import CanonicalAttention
from tf_opt.passes.onnx.collapse_tensordot import CollapseTensordot
from tf_opt.passes.onnx.fold_shapes import FoldShapes
from tf_opt.passes.onnx.fuse_gelu import FuseGelu
from tf_opt.passes.onnx.fuse_layer_normalization import FuseLayerNormalization
from tf_opt.passes.onnx.infer_shapes import InferShapes
from tf_opt.passes.onnx.merge_duplicates import MergeDuplicates
from tf_opt.passes.onnx.merge_qkv import MergeQkv
from tf_opt.passes.onnx.multi_head_attention import MultiHeadAttention
from tf_opt.passes.onnx.onnx_attention import OnnxAttention
from tf_opt.passes.onnx.pass_base import OnnxPass
from tf_opt.passes.onnx.prune import Prune
from tf_opt.passes.onnx.prune_tokens import PruneTokens
from tf_opt.passes.onnx.raise_opset import RaiseOpset
from tf_opt.passes.onnx.skip_padding import SkipPadding


def canonical_passes(target: OnnxTarget, mask: str | None = None) -> tuple[OnnxPass, ...]:
    """Returns all passes between export and build, in order.

    Args:
        target: What the engine wants.
        mask: The graph input of the attention mask, where no work is to be done for padding; None does all work.
    """
    return (*recognizing_passes(target, mask), *lowering_passes(target))


def recognizing_passes(target: OnnxTarget, mask: str | None = None) -> tuple[OnnxPass, ...]:
    """Returns the passes that find the building blocks of a model and write each in one form.

    Attention is still written with MatMul afterwards, and each product has a weight of its own: passes that change the
    precision see all there is.

    Args:
        target: What the engine wants.
        mask: As for `canonical_passes`.
    """
    passes: list[OnnxPass] = [
        # First: constants as nodes and pass-through nodes hide every pattern.
        Prune(),
        # Masks of all layers become one, and equal mean and variance of one tensor too.
        MergeDuplicates(),
        # Gelu and Attention exist from some version on. A model without either has nothing to gain.
        RaiseOpset(target.opset, _worth_raising(target)),
        # Everything that follows looks through Reshapes whose targets are known.
        FoldShapes(),
        # A bias between product and Reshape comes along when the Reshapes go, so it has to be there first.
        BiasAfterMatMul(),
        CollapseTensordot(),
    ]
    if target.layer_normalization:
        passes.append(FuseLayerNormalization())
    if target.gelu and target.opset >= GELU_OPSET:
        passes.append(FuseGelu())
    passes += [
        # Behind the biases, since it looks for the splitting of heads right in front of the products.
        CanonicalAttention(),
        # Reshapes that the rewrites before left behind each other.
        FoldShapes(),
        # Where one token of a sequence is read, the last layer's work for the others goes, before any work is packed.
        # Both passes see attention in its canonical form only.
        PruneTokens(),
    ]
    if mask is not None:
        passes.append(SkipPadding(mask))
    # Constants that the rewrites added in each layer.
    passes += [MergeDuplicates(), Prune()]
    return tuple(passes)


def lowering_passes(target: OnnxTarget) -> tuple[OnnxPass, ...]:
    """Returns the passes that write canonical blocks as the operators that an engine has kernels for."""
    passes: list[OnnxPass] = []
    if target.attention == "onnx":
        passes.append(OnnxAttention())
    if target.attention == "microsoft":
        passes.append(MultiHeadAttention())
    if target.merge_qkv:
        # In int8 each product has an equal conversion of its operand for itself until duplicates are merged.
        passes += [MergeDuplicates(), MergeQkv()]
    passes += [MergeDuplicates(), Prune()]
    if target.infer_shapes:
        # Last: a rewrite leaves the shapes of what it adds unknown.
        passes.append(InferShapes())
    return tuple(passes)


def _worth_raising(target: OnnxTarget) -> frozenset[str]:
    """Returns the operators around which newer operator sets offer something that the target wants."""
    gaining = {"Erf", "Tanh"} if target.gelu else set()
    return frozenset(gaining | {"Softmax"} if target.attention == "onnx" else gaining)
