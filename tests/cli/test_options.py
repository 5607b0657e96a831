"""Every option of the library is an option of the command, and none is taken without having an effect."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer

from tf_opt.cli.calibration_arguments import CalibrationArguments
from tf_opt.cli.feed_arguments import FeedArguments
from tf_opt.cli.option_arguments import OptimizeArguments, SegmentArguments, optimizer_keywords
from tf_opt.cli.quantization_arguments import QuantizationArguments
from tf_opt.cli.tensorrt_arguments import TensorRTArguments, parse_bytes, parse_profile
from tf_opt.engines.tensorrt.settings import TensorRTSettings
from tf_opt.options import Options
from tf_opt.quantization import QuantizationSettings
from tf_opt.tolerance import Tolerance

NO_OPTION = {"node_filter"}
"""A function cannot be written on a command line."""

BY_THE_TERMINAL = {"progress"}
BY_THE_ENGINE = {"target"}

QUANTIZATION: dict[str, Any] = {
    "quantization_method": "nncf",
    "quantization_denied_op": ["Gemm"],
    "quantization_denied_node": ["*/pooler/*"],
    "quantization_smoothing": [0.5],
    "quantization_weight_bits": 8,
    "quantization_correct_bias": False,
    "quantization_minimum_weight_elements": 10,
    "quantization_maximum_samples": 5,
    "quantization_maximum_rows": 7,
}
TENSORRT: dict[str, Any] = {
    "tensorrt_profile": ["ids=1x16:1x128:8x512"],
    "tensorrt_profile_strategy": "range",
    "tensorrt_workspace": "2G",
    "tensorrt_optimization_level": 5,
    "tensorrt_timing_cache": Path("timings"),
    "tensorrt_hardware_compatibility": "ampere_plus",
    "tensorrt_version_compatible": True,
    "tensorrt_strip_weights": True,
    "tensorrt_cuda_graphs": False,
    "tensorrt_maximum_contexts": 2,
    "tensorrt_tf32": True,
    "tensorrt_tactic_source": ["JIT_CONVOLUTIONS"],
}


def keywords(
    *, segments: dict[str, Any] | None = None, quantization: Any = None, tensorrt: Any = None, **optimize: Any
) -> dict[str, Any]:
    return optimizer_keywords(
        SegmentArguments(**(segments or {})),
        OptimizeArguments(**optimize),
        QuantizationArguments(**(quantization or {})),
        TensorRTArguments(**(tensorrt or {})),
    )


def test_nothing_given_is_nothing_passed() -> None:
    assert keywords() == {}


def test_every_option_arrives() -> None:
    given = keywords(
        segments={
            "engine": ["tensorrt", "openvino"],
            "minimum_segment_size": 5,
            "supported_op": ["MatMul"],
            "denied_op": ["Softmax"],
            "supported_node": ["encoder/*"],
            "denied_node": ["pooler/*"],
        },
        precision="auto",
        tolerance_cosine=0.98,
        tolerance_absolute=0.5,
        tuning_seconds=3.0,
        skip_padding="attention_mask",
        strict=True,
        no_fallback=True,
        fix_shapes=True,
        specialize_after=7,
        maximum_cached_engines=2,
        measurement_seconds=1.0,
        cache_dir=Path("results"),
        dump=Path("dumped"),
        quantization=QUANTIZATION,
        tensorrt=TENSORRT,
    )
    alone = [keywords(rtol=1e-3, atol=1e-2), keywords(no_cache=True), keywords(adopt="always")]
    passed = set(given).union(*alone)
    assert passed == {field.name for field in fields(Options)} - NO_OPTION - BY_THE_TERMINAL
    options = Options(**given)
    defaults = Options()
    for name in given:
        assert getattr(options, name) != getattr(defaults, name), name
    assert options.tolerance == Tolerance(cosine=0.98, maximum_absolute=0.5)
    assert (alone[0]["rtol"], alone[0]["atol"], alone[1]["cache"]) == (1e-3, 1e-2, False)
    assert alone[2] == {"adopt": "always"}


def test_every_setting_of_quantization_arrives() -> None:
    settings = keywords(precision="int8", quantization=QUANTIZATION)["quantization"]
    defaults = QuantizationSettings()
    for field in fields(QuantizationSettings):
        if field.name not in BY_THE_ENGINE:
            assert getattr(settings, field.name) != getattr(defaults, field.name), field.name


def test_every_setting_of_tensorrt_arrives() -> None:
    settings = keywords(tensorrt=TENSORRT)["tensorrt"]
    strategy = keywords(tensorrt={"tensorrt_profile_strategy": "optimal"})["tensorrt"]
    defaults = TensorRTSettings()
    for field in fields(TensorRTSettings):
        found = strategy if field.name == "profile_strategy" else settings
        assert getattr(found, field.name) != getattr(defaults, field.name), field.name
    assert list(settings.profiles) == [{"ids": ((1, 16), (1, 128), (8, 512))}]
    assert settings.workspace_bytes == 2 * 2**30


@pytest.mark.parametrize(
    ("given", "option"),
    [
        ({"rtol": 1e-3, "precision": "int8"}, "--rtol"),
        ({"atol": 1e-3, "sixteen_bit": True}, "--atol"),
        ({"atol": 1e-3, "tolerance_cosine": 0.9}, "--atol"),
        ({"sixteen_bit": True, "precision": "bf16"}, "--16-bit"),
        ({"tuning_seconds": 5.0}, "--tuning-seconds"),
        ({"cache_dir": Path("results"), "no_cache": True}, "--cache-dir"),
        ({"adopt": "always", "tolerance_cosine": 0.9}, "--tolerance-cosine"),
        ({"adopt": "always", "measurement_seconds": 1.0}, "--measurement-seconds"),
        ({"adopt": "always", "measurement_seconds": 1.0, "precision": "auto"}, "--measurement-seconds"),
        ({"quantization": {"quantization_weight_bits": 8}}, "--quantization-weight-bits"),
        ({"tensorrt": {"tensorrt_tf32": True}, "segments": {"engine": ["openvino"]}}, "--tensorrt-tf32"),
    ],
)
def test_what_would_have_no_effect_is_refused(given: dict[str, Any], option: str) -> None:
    with pytest.raises(typer.BadParameter) as raised:
        keywords(**given)
    assert raised.value.param_hint == option


@pytest.mark.parametrize(
    "given",
    [
        {"segments": {"engine": ["auto", "openvino"]}},
        {"segments": {"engine": ["fastest"]}, "adopt": "always"},
        {"precision": "auto", "adopt": "always"},
        {"measurement_seconds": 0.0},
        {"precision": "int8", "quantization": {"quantization_denied_op": ["Add"]}},
        {"tensorrt": {"tensorrt_strip_weights": True, "tensorrt_profile_strategy": "optimal"}},
    ],
)
def test_what_the_library_refuses_is_a_usage_error(given: dict[str, Any]) -> None:
    with pytest.raises(typer.BadParameter):
        keywords(**given)


@pytest.mark.parametrize("text", ["ids", "ids=1x16", "ids=1x16:1x128", "=1:2:3", "ids=1x:1x2:1x3", "ids=a:b:c"])
def test_malformed_profiles_are_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="no range of shapes"):
        parse_profile(text)


def test_profiles_have_several_inputs() -> None:
    profile = parse_profile("ids=1x16:1x128:8x512, mask=1x16:1x128:8x512")
    assert profile == dict.fromkeys(("ids", "mask"), ((1, 16), (1, 128), (8, 512)))


def test_sizes_have_units() -> None:
    assert [parse_bytes(text) for text in ("7", "2K", "3m", "1GiB", "4GB")] == [7, 2048, 3 * 2**20, 2**30, 4 * 2**30]
    for text in ("", "G", "1.5G", "-1", "1T"):
        with pytest.raises(typer.BadParameter, match="is no size"):
            parse_bytes(text)


@pytest.mark.parametrize(
    ("given", "option"),
    [
        ({"feeds": [Path("a.npz")], "shape": ["x=1"]}, "--feeds and --shape"),
        ({"feeds": [Path("a.npz")], "texts": Path("t.jsonl")}, "--feeds and --texts"),
        ({"texts": Path("t.jsonl"), "maximum_length": 8}, "--maximum-length"),
        ({"texts": Path("t.jsonl"), "text_input": ["input_ids=ids"]}, "--text-input"),
        ({"tokenizer": Path("t")}, "--tokenizer"),
        ({"batch_size": 8}, "--batch-size"),
        ({"maximum_length": 8}, "--maximum-length"),
        ({"text_input": ["input_ids=ids"]}, "--text-input"),
        ({"feeds": [Path("a.npz")], "seed": 1}, "--seed"),
        ({"texts": Path("t.jsonl"), "tokenizer": Path("t"), "feed_count": 2}, "--feed-count"),
        ({"texts": Path("t.jsonl"), "tokenizer": Path("t"), "text_input": ["ids"]}, "--text-input"),
    ],
)
def test_feeds_come_from_one_place(given: dict[str, Any], option: str) -> None:
    with pytest.raises(typer.BadParameter) as raised:
        FeedArguments(**given).source()
    assert raised.value.param_hint == option


@pytest.mark.parametrize(
    ("given", "precision", "option"),
    [
        ({"calibration_feeds": [Path("a.npz")]}, None, "--calibration-feeds"),
        ({"calibration_texts": Path("a.jsonl")}, "int8", "--calibration-texts"),
        (
            {"calibration_feeds": [Path("a.npz")], "calibration_texts": Path("a.jsonl")},
            "int8",
            "--calibration-feeds and",
        ),
    ],
)
def test_calibration_is_refused_where_it_has_no_effect(given: Any, precision: str | None, option: str) -> None:
    with pytest.raises(typer.BadParameter) as raised:
        CalibrationArguments(**given).source(precision, FeedArguments())
    assert str(raised.value.param_hint).startswith(option)


def test_calibration_reads_texts_as_the_feeds_do() -> None:
    feeds = FeedArguments(shape=["x=1"], tokenizer=Path("t"), batch_size=4, seed=3)
    source = CalibrationArguments(calibration_texts=Path("a.jsonl")).source("int8", feeds)
    assert source is not None
    assert (source.arguments.texts, source.arguments.tokenizer, source.arguments.batch_size) == (
        Path("a.jsonl"),
        Path("t"),
        4,
    )
    assert feeds.source(other_texts=True).shapes[0].name == "x"
