from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.passes.onnx.pass_checks import model_of, watch_weights
from tf_opt.errors import PassError
from tf_opt.passes.onnx.pass_base import OnnxPass, OnnxPipeline


class Counted(OnnxPass):
    """Does nothing, and says how much."""

    name = "counted"

    def __init__(self, changes=0):
        self.changes = changes

    def run(self, model):
        return self.changes


class Failing(OnnxPass):
    name = "failing"

    def run(self, model):
        raise ValueError("no such thing")


class Renaming(OnnxPass):
    name = "renaming"

    def run(self, model):
        model.graph.outputs[0].name = "other"
        return 1


class Needy(OnnxPass):
    name = "needy"
    requires = frozenset({"order"})

    def run(self, model):
        return 0


class Ordering(OnnxPass):
    name = "ordering"
    ensures = frozenset({"order"})

    def run(self, model):
        return 0


def small(**constants):
    return model_of("g (float[B, 8] x) => (float[B, 64] y) { r = Relu(x)  y = MatMul(r, w) }", w=np.ones((8, 64), "f"))


def test_counts_are_summed_by_name():
    pipeline = OnnxPipeline([Counted(2), Ordering(), Counted(3)])
    assert pipeline.run(small()) == {"counted": 5, "ordering": 0}
    assert [record.changes for record in pipeline.records] == [2, 0, 3]
    assert all(record.nodes_before == record.nodes_after == 2 for record in pipeline.records)


def test_a_failure_names_the_pass_and_those_before_it():
    with pytest.raises(PassError, match=r"'failing' failed \(after counted\): ValueError: no such thing") as caught:
        OnnxPipeline([Counted(), Failing()]).run(small())
    assert isinstance(caught.value.__cause__, ValueError)
    with pytest.raises(PassError, match=r"it was the first"):
        OnnxPipeline([Failing()]).run(small())


def test_the_border_has_to_stay():
    with pytest.raises(PassError, match=r"'renaming' changed the inputs or outputs .*\('y'.*became \('other'"):
        OnnxPipeline([Renaming()]).run(small())


def test_requirements_are_checked_beforehand():
    with pytest.raises(PassError, match="'needy' requires order"):
        OnnxPipeline([Needy(), Ordering()])
    OnnxPipeline([Ordering(), Needy()])


def test_numbered_files_without_weights(tmp_path):
    model = small()
    watched = watch_weights(model)
    OnnxPipeline([Counted(), Ordering()], dump_dir=tmp_path / "dump").run(model)
    names = sorted(path.name for path in (tmp_path / "dump").iterdir())
    assert names == ["00_input.onnx", "01_counted.onnx", "02_ordering.onnx"]
    written = onnx.load(tmp_path / "dump" / "02_ordering.onnx")
    assert [value.name for value in written.graph.input] == ["x", "weight_0"]
    assert watched["w"].reads == 0
