"""The GPU check's worker for TensorRT, on the simulator: profiles, correctness, and runs without host copies."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import pytest
from gpu_check_parts import bert
from gpu_check_parts.graph_worker import GraphPeer, tensorrt_settings
from peer_workers.accuracy import output_error, too_far
from peer_workers.model_files import write_feeds
from peer_workers.protocol import OUTPUTS, read_feeds

from tests.simulators.tensorrt.fixture import simulated_tensorrt

POINTS = [(1, 8), (3, 16)]


def test_profiles_of_tensorrt() -> None:
    points = [(1, 128), (32, 128), (8, 384)]
    settings = tensorrt_settings(points, {"tuned_points": 2, "tactic_sources": []})
    assert [profile["input_ids"] for profile in settings.profiles] == [
        ((1, 128), (1, 128), (1, 128)),
        ((32, 128), (32, 128), (32, 128)),
        ((1, 128), (1, 128), (32, 384)),
    ]
    assert settings.tactic_sources == []
    # One point by itself needs no range.
    assert len(tensorrt_settings(points[:1], {"tuned_points": 4}).profiles) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("version", "precision"), [("10.0", "fp32"), ("10.16", "fp16"), ("11.4", "int8")])
def test_simulated_tensorrt_is_right_with_and_without_host_copies(version: str, precision: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(bert.TINY))
    with simulated_tensorrt(version) as simulation:
        original, engine = GraphPeer(), GraphPeer()
        original.load(tmp_path, 1, POINTS, {"engine": None, "precision": "fp32", "gpu": False})
        # The second point is served by the profile of the whole range.
        options = {"engine": "tensorrt", "precision": precision, "gpu": True, "tuned_points": 1}
        details = engine.load(tmp_path, 1, POINTS, options)
        assert [text.partition(" ")[0] for text in details["engines"]] == ["tensorrt"]
        for batch, sequence in POINTS:
            write_feeds(tmp_path / "feeds.npz", bert.TINY, batch, sequence, 1)
            feeds = read_feeds(str(tmp_path / "feeds.npz"))
            outputs = []
            for peer in (original, engine):
                peer.prepare(feeds, 0.0)
                outputs.append(dict(zip(OUTPUTS, peer.arrays(peer.run("check")), strict=True)))
            error, cosine = output_error(outputs[1], outputs[0], feeds["check"]["attention_mask"] > 0)
            assert too_far(precision, error, cosine) is None
            seconds, back_to_back, difference = engine.device_times("0", 2)
            assert len(seconds) == 2
            assert back_to_back > 0
            assert difference == 0.0
        for peer in (engine, original):
            peer.close()
        gc.collect()  # A Session's engines go with the Session, which TensorFlow holds in circles.
        assert simulation.driver.leaks() == []
