"""What `dump_dir` writes, for every engine, and when something fails."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import tensorflow as tf

import tf_opt
from tests.simulators.tensorrt.fixture import simulated_tensorrt
from tests.small_graphs import engine_nodes, feed, mlp, run_graph_def, two_towers
from tf_opt import errors, files, segment_models
from tf_opt.dump.feeds import read_feeds
from tf_opt.dump.records import load_record
from tf_opt.dump.replay import main, replay
from tf_opt.dump.weights import load_dumped_graph
from tf_opt.engines.blob import EngineBlob
from tf_opt.engines.openvino import OpenVINOBackend

QUICK = ["--seconds", "0.05"]


def dump(folder, graph_def=None, outputs=("y",), feeds=None, **options):
    """Optimizes with a dump; returns the optimized graph, the report and the newest dump."""
    optimizer = tf_opt.Tf2TrtOpt(**{"engine": "openvino", "adopt": "always", "dump_dir": folder, **options})
    optimized = optimizer.optimize_graph_def(graph_def or mlp(), list(outputs), feeds or [feed(3), feed(5)])
    return optimized, optimizer.report, folder and newest(folder)


def newest(folder: Path) -> Path:
    return max(path for path in folder.iterdir() if path.is_dir())


def wide() -> tf.compat.v1.GraphDef:
    """A network with weights large enough to be quantized."""
    random = np.random.default_rng(0)
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 16], name="x")
        hidden = tf.nn.relu(tf.matmul(x, tf.constant(random.normal(size=(16, 512)).astype(np.float32))))
        tf.matmul(hidden, tf.constant(random.normal(size=(512, 16)).astype(np.float32)), name="y")
    return graph.as_graph_def()


def test_dump_of_every_engine_loads_and_replays(engine, tmp_path):
    optimized, _, folder = dump(tmp_path, engine=engine)
    assert folder.name == f"001_{engine}"
    segments = folder / "segments"
    assert {path.name for path in folder.iterdir()} == {
        "index.md",
        "report.json",
        "graph_passes",
        "final_graph.pb",
        "final_graph.txt",
        "segments",
    }
    name = "tf_opt_segment_0"
    assert {path.name for path in segments.iterdir()} == {
        "weights.data",
        "weights.json",
        f"{name}.pb",
        f"{name}.txt",
        f"{name}.json",
        f"{name}.onnx",
        f"{name}_feeds.npz",
        f"{name}_passes",
        f"{name}_{engine}_fp32.onnx",
        f"{name}_{engine}_fp32.engine",
        f"{name}_{engine}_fp32.log",
        f"replay_{name}.py",
    }
    assert "00_input.pb" in {path.name for path in (folder / "graph_passes").iterdir()}
    assert sorted(path.name for path in (segments / f"{name}_passes").iterdir()) == sorted(
        ["onnx", "tf", f"{engine}_fp32"]
    )
    log = (segments / f"{name}_{engine}_fp32.log").read_text()
    assert log.startswith(f"{name}, fp32: built with {engine} ")
    assert "2 MatMul" in log or "2 Gemm" in log
    # As they lie, with the constants from the other file.
    (values,) = read_feeds(segments / f"{name}_feeds.npz", load_record(segments / f"{name}.json").inputs)[:1]
    expected = run_graph_def(mlp(), ["y:0"], {"x:0": values["input_0:0"]})[0]
    session = onnxruntime.InferenceSession(segments / f"{name}.onnx")
    np.testing.assert_allclose(session.run(None, {"input_0": values["input_0:0"]})[0], expected, atol=1e-5)
    compiled = openvino.Core().compile_model(segments / f"{name}.onnx", "CPU")
    np.testing.assert_allclose(compiled([values["input_0:0"]])[0], expected, atol=1e-5)
    result = replay(segments / f"{name}.json", seconds=0.05)
    assert result.engine == f"{engine}_fp32"
    assert result.comparison.passed
    assert len(result.timings) == 2
    full = load_dumped_graph(folder / "final_graph.pb")
    assert len(engine_nodes(full)) == 1
    np.testing.assert_allclose(
        run_graph_def(full, ["y:0"], feed())[0], run_graph_def(optimized, ["y:0"], feed())[0], atol=1e-6
    )
    assert load_dumped_graph(folder / "graph_passes" / "00_input.pb") == mlp()


def test_replay_script_runs_alone_and_says_what_it_found(tmp_path):
    _, _, folder = dump(tmp_path)
    script = folder / "segments" / "replay_tf_opt_segment_0.py"
    other = tmp_path / "other.npz"
    np.savez(other, input_0=np.ones([7, 16], np.float32))
    done = subprocess.run(
        [sys.executable, script, "--engine", "onnxruntime", "--feeds", other, *QUICK],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "onnxruntime, built anew" in done.stdout
    assert "7×16" in done.stdout


def test_exit_status_of_replay(tmp_path, capsys):
    _, _, folder = dump(tmp_path)
    record = folder / "segments" / "tf_opt_segment_0.json"
    assert main(record, QUICK) == 0
    assert main(record, [*QUICK, "--rtol", "0", "--atol", "0"]) == 1
    assert main(record, [*QUICK, "--engine", "onnxruntim"]) == 2
    assert "Did you mean 'onnxruntime'?" in capsys.readouterr().err
    assert main(record, [*QUICK, "--feeds", str(record)]) == 2
    assert "cannot be read as an .npz" in capsys.readouterr().err


def test_engine_with_another_answer_is_found_out(tmp_path):
    _, _, folder = dump(tmp_path)
    path = folder / "segments" / "weights.data"
    content = bytearray(path.read_bytes())
    passing = replay(folder / "segments" / "tf_opt_segment_0.json", seconds=0.05)
    assert passing.comparison.passed
    # The exported model alone is changed, so that the engine built of it differs from TensorFlow's nodes.
    model = folder / "segments" / "tf_opt_segment_0.onnx"
    changed = onnx_with_other_constant(model)
    model.write_bytes(changed)
    result = replay(folder / "segments" / "tf_opt_segment_0.json", "onnxruntime", seconds=0.05)
    assert not result.comparison.passed
    assert path.read_bytes() == bytes(content)


def onnx_with_other_constant(path: Path) -> bytes:
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL and tensor.data_type == onnx.TensorProto.FLOAT:
            array = onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array + 1.0, tensor.name))
    return model.SerializeToString()


def without_dimension_names(graph_def):
    """Returns a graph and the operators of its engines; tf2onnx numbers open dimensions on from call to call."""
    copy = tf.compat.v1.GraphDef.FromString(graph_def.SerializeToString())
    operators = []
    for node in engine_nodes(copy):
        payload = EngineBlob.unpack(node.attr["engine"].s).payload
        operators.append(list(onnx.load_model_from_string(payload).graph.node))
        del node.attr["engine"]
    return copy, operators


def test_dump_changes_nothing(tmp_path):
    with_dump, _, _ = dump(tmp_path, two_towers(), ["right"], cache=False)
    without, _, _ = dump(None, two_towers(), ["right"], cache=False)
    assert without_dimension_names(with_dump) == without_dimension_names(without)


def test_each_run_has_a_folder_of_its_own(tmp_path):
    dump(tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "001_openvino").rglob("*") if path.is_file()}
    dump(tmp_path, engine="onnxruntime")
    dump(tmp_path, engine=["openvino", "onnxruntime"])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "001_openvino",
        "002_onnxruntime",
        "003_openvino_onnxruntime",
    ]
    assert all(path.read_bytes() == content for path, content in before.items())


def test_fastest_dumps_every_engine(tmp_path):
    dump(tmp_path, engine="fastest", adopt="measured", measurement_seconds=0.05)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert [name.partition("_")[0] for name in names] == ["001", "002"]
    assert {name.partition("_")[2] for name in names} == {"openvino", "onnxruntime"}


def test_every_precision_is_named_and_replays(tmp_path):
    _, _, folder = dump(tmp_path, wide(), precision="int8")
    record = load_record(folder / "segments" / "tf_opt_segment_0.json")
    assert [each.name for each in record.engines] == ["openvino_fp32", "openvino_int8"]
    assert any(key.startswith("derived/") for key in record.engines[1].weights)
    for name in ("openvino_fp32", "openvino_int8"):
        assert (folder / "segments" / f"tf_opt_segment_0_{name}.engine").is_file()
        result = replay(folder / "segments" / "tf_opt_segment_0.json", name, atol=1.0, rtol=0.1, seconds=0.05)
        assert result.engine == name
        assert min(output.cosine for output in result.comparison.outputs) > 0.99
    openvino.Core().compile_model(folder / "segments" / "tf_opt_segment_0_openvino_int8.onnx", "CPU")


def test_several_engines_of_one_precision_are_numbered(tmp_path):
    """As where layers are moved back from int8 until the outputs are near enough."""

    def never(original, optimized):
        return 0.0

    options = {"precision": "auto", "tolerance": tf_opt.Tolerance(metric=never, at_least=0.5), "tuning_seconds": 60}
    _, report, folder = dump(tmp_path, wide(), adopt="measured", measurement_seconds=0.05, **options)
    record = load_record(folder / "segments" / "tf_opt_segment_0.json")
    tried = [attempt for attempt in report.attempts if not attempt.reason.startswith("not tried")]
    assert len([each for each in record.engines if each.precision == "int8"]) > 1
    assert len(record.engines) == len(tried)
    assert len({each.name for each in record.engines}) == len(record.engines)
    assert all((folder / "segments" / each.blob).is_file() for each in record.engines)
    assert "stays TensorFlow" in (folder / "index.md").read_text()


def test_constants_are_written_once(tmp_path):
    _, _, folder = dump(tmp_path, wide())
    size = 2 * 16 * 512 * 4
    assert size <= (folder / "segments" / "weights.data").stat().st_size <= size + 2 * 4096
    others = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name != "weights.data")
    assert others < 3 * size
    assert all(path.stat().st_size < 32_000 for path in folder.rglob("*.onnx"))


def test_segment_whose_build_fails_is_dumped_and_built_again(tmp_path, monkeypatch):
    def refuse(self, segment, profiles=()):
        raise errors.EngineBuildError("no room on this device")

    with monkeypatch.context() as broken:
        broken.setattr(OpenVINOBackend, "build", refuse)
        optimized, report, folder = dump(tmp_path)
    assert not engine_nodes(optimized)
    assert report.segments[0].reason == "no room on this device"
    record_path = folder / "segments" / "tf_opt_segment_0.json"
    record = load_record(record_path)
    assert record.error == "no room on this device"
    assert record.engines[0].error == "no room on this device"
    log = (folder / "segments" / record.engines[0].log).read_text()
    assert log.startswith("tf_opt_segment_0, fp32: not built\noperators: ")
    assert "no room on this device" in log
    assert "not built: no room on this device" in (folder / "index.md").read_text()
    with monkeypatch.context() as broken:
        broken.setattr(OpenVINOBackend, "build", refuse)
        assert main(record_path, QUICK) == 2
    # Where the reason is gone, the same model is built.
    result = replay(record_path, seconds=0.05)
    assert result.engine == "openvino_fp32, built again"
    assert result.comparison.passed


def test_segment_that_is_not_exported_is_dumped(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise errors.ExportError("no such node in ONNX")

    monkeypatch.setattr(segment_models, "export_segment", refuse)
    _, _, folder = dump(tmp_path)
    record_path = folder / "segments" / "tf_opt_segment_0.json"
    assert load_record(record_path).error == "no such node in ONNX"
    assert "no such node in ONNX" in (folder / "segments" / "tf_opt_segment_0.log").read_text()
    with pytest.raises(errors.EngineBuildError, match=r"was not exported.*no such node in ONNX"):
        replay(record_path)


def test_segments_of_an_earlier_cut_stay(tmp_path, monkeypatch):
    original = OpenVINOBackend.build

    def refuse_relu(self, segment, profiles=()):
        if b"Relu" in segment.model:
            raise errors.EngineBuildError("no Relu today", nodes=("activation",))
        return original(self, segment, profiles)

    monkeypatch.setattr(OpenVINOBackend, "build", refuse_relu)
    _, report, folder = dump(tmp_path, minimum_segment_size=1)
    records = {path.stem: load_record(path) for path in (folder / "segments").glob("tf_opt*.json")}
    assert sorted(records) == ["tf_opt_segment_0", "tf_opt_segment_0_2", "tf_opt_segment_1"]
    assert records["tf_opt_segment_0"].error == "no Relu today"
    assert not records["tf_opt_segment_0_2"].error
    assert len(report.segments) == 2
    for stem in ("tf_opt_segment_0_2", "tf_opt_segment_1"):
        assert replay(folder / "segments" / f"{stem}.json", seconds=0.05).comparison.passed


def test_optimization_that_raises_leaves_a_dump_that_says_so(tmp_path, monkeypatch):
    def refuse(self, segment, profiles=()):
        raise errors.EngineBuildError("no room on this device")

    monkeypatch.setattr(OpenVINOBackend, "build", refuse)
    with pytest.raises(errors.EngineBuildError):
        dump(tmp_path, strict=True)
    text = (tmp_path / "001_openvino" / "index.md").read_text()
    assert "The optimization failed" in text
    assert "no room on this device" in text


def test_segment_in_a_loop_has_no_feeds_and_says_why(tmp_path):
    with tf.Graph().as_default() as graph:
        tf.compat.v1.disable_control_flow_v2()
        try:
            x = tf.compat.v1.placeholder(tf.float32, [None, 16], name="x")
            weight = tf.constant(np.eye(16, dtype=np.float32) * 0.5)
            _, y = tf.compat.v1.while_loop(
                lambda step, _: step < 3,
                lambda step, y: (step + 1, tf.nn.softmax(tf.nn.relu(tf.matmul(y, weight)) * 0.5)),
                [0, x],
            )
            tf.identity(y, name="y")
        finally:
            tf.compat.v1.enable_control_flow_v2()
    _, report, folder = dump(tmp_path, graph.as_graph_def())
    assert report.engine_count == 1
    record = load_record(folder / "segments" / "tf_opt_segment_0.json")
    assert not record.feeds
    assert "cannot be computed" in record.feeds_reason
    with pytest.raises(errors.DumpError, match="There are no stored feeds"):
        replay(folder / "segments" / "tf_opt_segment_0.json")
    values = tmp_path / "values.npz"
    np.savez(values, input_0=np.ones([2, 16], np.float32))
    assert replay(folder / "segments" / "tf_opt_segment_0.json", feeds_path=values, seconds=0.05).comparison.passed


def test_analysis_is_dumped(tmp_path):
    tf_opt.Tf2TrtOpt(engine="openvino", dump_dir=tmp_path).analyze(mlp(), ["y"])
    folder = newest(tmp_path)
    assert json.loads((folder / "report.json").read_text())["engine"] == "openvino"
    assert "%y : float32[?, 4] = Identity" in (folder / "final_graph.txt").read_text()


def test_shapes_of_a_profile_come_along(tmp_path, monkeypatch):
    with simulated_tensorrt("10.16"):
        _, _, folder = dump(tmp_path, engine="tensorrt")
        record = load_record(folder / "segments" / "tf_opt_segment_0.json")
        assert record.profiles[0].minimum == {"input_0": (3, 16)}
        assert record.profiles[0].maximum == {"input_0": (5, 16)}
        # Built of the exported model, with these shapes.
        result = replay(folder / "segments" / "tf_opt_segment_0.json", "tensorrt", seconds=0.05)
        assert result.comparison.passed


def test_folder_that_cannot_be_written_is_refused_before_any_work(tmp_path):
    file = tmp_path / "file"
    file.write_text("in the way")
    with pytest.raises(errors.OutputPathError, match=r"dump cannot be written: .*file is no folder"):
        dump(file / "dump")
    for place in (file, file / "dump", Path("/proc/dump")):
        with pytest.raises(errors.OutputPathError, match=r"is no folder|cannot be written"):
            tf_opt.Tf2TrtOpt(dump_dir=place)  # No model is needed for that.
    # Nothing is made before there is something to write.
    tf_opt.Tf2TrtOpt(dump_dir=tmp_path / "new" / "dump")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_disk_without_room_is_refused_before_any_work(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("tf_opt.dump.writer.shutil.disk_usage", lambda path: usage(10**9, 10**9 - 5000, 5000))
    with pytest.raises(errors.DumpError, match=r"needs about 12\d\.\d MiB .* has 4\.9 KiB left"):
        dump(tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", ["01_prune.pb", "tf_opt_segment_0.onnx", "02_merge_duplicates.onnx", "final_graph.pb"])
def test_disk_that_becomes_full_is_named(tmp_path, monkeypatch, name):
    original = files.write_parts

    def write_parts(path, parts, *, sync=True):
        if Path(path).name == name:
            raise OSError(28, "No space left on device")
        original(path, parts, sync=sync)

    monkeypatch.setattr(files, "write_parts", write_parts)
    with pytest.raises(errors.DumpError, match=rf"cannot write .*{name}: No space left on device"):
        dump(tmp_path)


def test_damaged_dump_is_named(tmp_path):
    _, _, folder = dump(tmp_path)
    segments = folder / "segments"
    with (segments / "weights.data").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(errors.DumpError, match=r"cannot be read from .*weights\.data"):
        replay(segments / "tf_opt_segment_0.json")
    (segments / "weights.json").write_text("{")
    with pytest.raises(errors.DumpError, match=r"weights\.json"):
        replay(segments / "tf_opt_segment_0.json")
    (segments / "tf_opt_segment_0.json").write_text("[]")
    with pytest.raises(errors.DumpError, match="does not describe a dumped segment"):
        replay(segments / "tf_opt_segment_0.json")
    with pytest.raises(errors.DumpError, match="lies in no dump"):
        load_dumped_graph(tmp_path / "graph.pb")
