from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef

from tests.passes.tf.pass_testing import graph_of, ops, placeholder
from tf_opt.errors import PassError
from tf_opt.passes.tf.pass_base import Border, Fixpoint, GraphPass, PassPipeline, PassResult
from tf_opt.passes.tf.prune import Prune


class RemoveOneNeg(GraphPass):
    """Removes one of two Neg that follow each other: a pass that needs several rounds."""

    name: ClassVar[str] = "remove_one_neg"

    def run(self, graph_def: GraphDef, border: Border) -> PassResult:
        nodes = {node.name: node for node in graph_def.node}
        for node in graph_def.node:
            below = nodes[node.input[0]] if node.op == "Neg" else None
            if below is not None and below.op == "Neg":
                result = GraphDef()
                result.CopyFrom(graph_def)
                for copy in result.node:
                    if copy.name == node.name:
                        copy.op = "Identity"
                        copy.input[0] = below.input[0]
                return PassResult(result, changed=True, changes=1)
        return PassResult(graph_def, changed=False)


class Fails(GraphPass):
    name: ClassVar[str] = "fails"

    def run(self, graph_def: GraphDef, border: Border) -> PassResult:
        raise ValueError("no such thing")


class LosesOutputs(GraphPass):
    name: ClassVar[str] = "loses_outputs"

    def run(self, graph_def: GraphDef, border: Border) -> PassResult:
        return PassResult(GraphDef(), changed=True, changes=1)


class Alternates(GraphPass):
    """Never content."""

    name: ClassVar[str] = "alternates"

    def run(self, graph_def: GraphDef, border: Border) -> PassResult:
        return PassResult(graph_def, changed=True, changes=1)


def negations(count: int) -> tuple[GraphDef, Border]:
    def build() -> tf.Tensor:
        x = placeholder("x", [None])
        for _ in range(count):
            x = -x
        return tf.identity(x, name="y")

    return graph_of(build)


def test_passes_run_in_order_and_are_recorded() -> None:
    graph_def, border = negations(2)
    pipeline = PassPipeline([RemoveOneNeg(), Prune()])
    assert ops(pipeline.run(graph_def, border)) == {"Placeholder": 1, "Identity": 1}
    assert [(record.name, record.nodes_before, record.nodes_after) for record in pipeline.records] == [
        ("remove_one_neg", 4, 4),
        ("prune", 4, 2),
    ]
    assert pipeline.counts["remove_one_neg"] == 1
    assert all(record.seconds >= 0 for record in pipeline.records)


def test_a_second_run_starts_its_records_anew() -> None:
    pipeline = PassPipeline([Prune()])
    for _ in range(2):
        pipeline.run(*negations(1))
    assert len(pipeline.records) == 1


def test_fixpoint_repeats_until_nothing_changes() -> None:
    graph_def, border = negations(6)
    pipeline = PassPipeline([Fixpoint((RemoveOneNeg(), Prune()), maximum_rounds=10)])
    assert "Neg" not in ops(pipeline.run(graph_def, border))
    assert len(pipeline.records) == 2 * 4  # three rounds that remove two Negs each, and one that finds nothing


def test_fixpoint_gives_up() -> None:
    pipeline = PassPipeline([Fixpoint((Alternates(),), maximum_rounds=3)])
    pipeline.run(*negations(1))
    assert pipeline.counts == {"alternates": 3}


def test_a_failure_names_the_pass_and_those_before_it() -> None:
    with pytest.raises(
        PassError, match=r"'fails' failed \(after prune, remove_one_neg\): ValueError: no such"
    ) as error:
        PassPipeline([Prune(), RemoveOneNeg(), Fails()]).run(*negations(1))
    assert isinstance(error.value.__cause__, ValueError)


def test_a_lost_output_is_an_error() -> None:
    with pytest.raises(PassError, match=r"'loses_outputs' lost x, y"):
        PassPipeline([LosesOutputs()]).run(*negations(1))


def test_requirements_are_checked_before_anything_runs() -> None:
    class Needs(RemoveOneNeg):
        requires: ClassVar[frozenset[str]] = frozenset({"pruned"})

    with pytest.raises(PassError, match="requires pruned"):
        PassPipeline([Needs(), Prune()])
    PassPipeline([Fixpoint((Prune(), Needs()))])


def test_dumps_are_numbered(tmp_path: Path) -> None:
    graph_def, border = negations(2)
    result = PassPipeline([RemoveOneNeg(), Prune()], dump_dir=tmp_path / "dumps").run(graph_def, border)
    names = sorted(path.name for path in (tmp_path / "dumps").iterdir())
    assert names == ["00_input.pb", "01_remove_one_neg.pb", "02_prune.pb"]
    assert GraphDef.FromString((tmp_path / "dumps" / names[-1]).read_bytes()) == result


def test_border_reads_tensor_names() -> None:
    border = Border(("x",), ("a:0", "a:1", "b:0"))
    assert border.output_nodes == {"a", "b"}
    assert border.nodes == {"a", "b", "x"}
