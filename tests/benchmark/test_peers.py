"""The benchmark against peers: its parts, and one small run of the whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import peers
import plot_peers
import pytest
from bert_flops import bert_flops
from onnx import numpy_helper
from peer_workers import command_line, schedule
from peer_workers.model_files import model_folder, torch_name, write_feeds, write_model
from peer_workers.protocol import read_feeds

BERT_BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
TINY = {
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 1000,
    "max_position_embeddings": 64,
}


def test_flops_of_bert_base() -> None:
    assert bert_flops(BERT_BASE, 1, 128) == pytest.approx(22.35e9, rel=1e-3)
    # By hand, product by product: rows × columns × inner dimension, twice.
    tokens, sequence, hidden, inner = 2 * 384, 384, 768, 3072
    layer = 4 * 2 * tokens * hidden * hidden + 2 * 2 * tokens * hidden * inner
    layer += 2 * (2 * 12) * 2 * sequence * sequence * 64  # 12 heads of 64, scores and values, in 2 rows.
    assert bert_flops(BERT_BASE, 2, 384) == 12 * layer + 2 * 2 * hidden * hidden


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bert/embeddings/word_embeddings/weight", "embeddings.word_embeddings.weight"),
        ("bert/embeddings/position_embeddings/embeddings", "embeddings.position_embeddings.weight"),
        ("bert/encoder/layer_._11/attention/self/query/kernel", "encoder.layer.11.attention.self.query.weight"),
        ("bert/encoder/layer_._0/attention/output/LayerNorm/beta", "encoder.layer.0.attention.output.LayerNorm.bias"),
        ("bert/encoder/layer_._0/output/LayerNorm/gamma", "encoder.layer.0.output.LayerNorm.weight"),
        ("bert/pooler/dense/bias", "pooler.dense.bias"),
    ],
)
def test_names_of_weights(name: str, expected: str) -> None:
    assert torch_name(f"tf_bert_model/{name}:0") == expected


def test_feeds_are_random_and_only_the_check_is_padded(tmp_path: Path) -> None:
    write_feeds(tmp_path / "feeds.npz", TINY, 4, 32, 3)
    feeds = read_feeds(str(tmp_path / "feeds.npz"))
    assert list(feeds) == ["check", "0", "1", "2"]
    for name, feed in feeds.items():
        assert {(array.shape, array.dtype.name) for array in feed.values()} == {((4, 32), "int32")}
        assert len(np.unique(feed["input_ids"])) > 50
        assert bool(feed["attention_mask"].all()) is (name != "check")
    assert not np.array_equal(feeds["0"]["input_ids"], feeds["1"]["input_ids"])


def test_as_many_start_as_fit() -> None:
    sizes = {"a": 3.0, "b": 3.0, "broken": 9.0, "c": 2.0, "d": 5.0, "e": 2.0}
    asked: list[str] = []

    def start(name: str) -> bool:
        asked.append(name)
        return name != "broken"

    assert schedule.fitting(sizes, 10.0, 9, start) == (["a", "b", "c", "e"], ["broken", "d"])
    assert asked == ["a", "b", "c", "e"]
    assert schedule.fitting(sizes, 10.0, 2, start) == (["a", "b"], ["broken", "c", "d", "e"])
    # One that is too large starts alone, and one that cannot run takes no room.
    assert schedule.fitting({"d": 5.0, "e": 2.0}, 4.0, 9, start) == (["d"], ["e"])
    assert schedule.fitting({"broken": 9.0, "e": 2.0}, 2.0, 9, start) == (["e"], [])
    assert schedule.fitting({}, 2.0, 9, start) == ([], [])


def test_rounds_share_the_budget() -> None:
    assert schedule.rounds_within(100, 4, 1.0, 30) == 25
    assert schedule.rounds_within(100, 4, 0.1, 30) == 30
    assert schedule.rounds_within(100, 4, 20.0, 30) == 3
    assert schedule.rounds_within(-5, 1, 1.0, 30) == 3


def test_orders_are_random_and_repeatable() -> None:
    orders = schedule.orders(list("abcdef"), 20, seed=1)
    assert orders == schedule.orders(list("abcdef"), 20, seed=1)
    assert {frozenset(order) for order in orders} == {frozenset("abcdef")}
    assert len(set(map(tuple, orders))) > 10


def test_peers_are_chosen_by_pattern() -> None:
    assert [spec.name for spec in peers.chosen(["openvino-*"])][:2] == ["tensorflow", "openvino-fp32"]
    assert {spec.name for spec in peers.chosen(["*"])} == {spec.name for spec in peers.PEERS}
    with pytest.raises(SystemExit, match="No peer is called 'tensorrt'"):
        peers.chosen(["tensorrt"])


def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = command_line.parse(None, ["--points", "8x128", "1x16", "--config", '{"num_hidden_layers": 2}'])
    assert arguments.points == [(1, 16), (8, 128)]
    assert arguments.config == {"num_hidden_layers": 2}
    for wrong in (["--points", "8"], ["--points", "0x3"], ["--rounds", "2"], ["--at-once", "1"]):
        with pytest.raises(SystemExit):
            command_line.parse(None, wrong)
    assert "is no point; expected batch and sequence as in 8x128" in capsys.readouterr().err


@pytest.mark.slow
def test_a_small_run_with_a_peer_that_is_wrong(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, TINY)
    write_model(folder, TINY)
    # One weight is changed in the file that ONNX Runtime's optimizer reads.
    model = onnx.load(folder / "tensorflow.onnx")
    weight = next(each for each in model.graph.initializer if list(each.dims) == [64, 128])
    weight.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(weight), weight.name))
    onnx.save(model, folder / "torch.onnx")
    names = ["tensorflow", "tf_opt-fp32", "onnxruntime", "openvino-fp32"]
    output, plot = tmp_path / "result.json", tmp_path / "plot.svg"
    command = [sys.executable, peers.__file__, "--folder", str(tmp_path), "--output", str(output), "--plot", str(plot)]
    command += ["--config", json.dumps(TINY), "--points", "1x16", "2x8", "--rounds", "3", "--settle-seconds", "0.2"]
    command += ["--matmul-size", "256", "--no-torch", "--peers", *names, "onnxruntime-optimizer", "torch"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)

    assert result.returncode == 1, result.stderr
    content = json.loads(output.read_text())
    assert content["left_out"].keys() == {"onnxruntime-optimizer", "torch"}
    assert content["left_out"]["torch"] == "--no-torch was given"
    assert "at 1×16 its outputs are off by" in content["left_out"]["onnxruntime-optimizer"]
    assert {(row["peer"], row["batch"], row["sequence"]) for row in content["rows"]} == {
        (name, *point) for name in names for point in ((1, 16), (2, 8))
    }
    for row in content["rows"]:
        assert row["runs"] == 3
        assert 0 < row["minimum"] <= row["median"] <= row["p95"]
        original = plot_peers.row_of(content, "tensorflow", (row["batch"], row["sequence"]))
        assert original is not None
        assert row["ratio_to_original"] == pytest.approx(original["median"] / row["median"])
        assert row["gflops"] == pytest.approx(content["gflop"][f"{row['batch']}x{row['sequence']}"] / row["median"])
        assert row["share_of_ceiling"] == pytest.approx(row["gflops"] / content["matmul_gflops"]["fp32"])
    for name in names:
        assert content["peers"][name]["errors"]["1x16"]["maximum_absolute"] < 1e-4
    assert "| peer | precision | 2×8 | 1×16 | largest error |" in result.stdout
    assert [line.split("`")[1] for line in result.stdout.splitlines() if line.startswith("| `")] == names
    assert "Left out: `torch`: --no-torch was given." in result.stdout
    assert all(text in plot.read_text() for text in (*names, "2×8", "1×16"))
