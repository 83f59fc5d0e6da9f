"""Engines of the shipped models, and their records, which Python must read as its own."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from seqexport.plugins import library
from seqexport.plugins.ops import OPS
from seqexport.runtimes.bundle import MODEL, Bundle
from seqexport.runtimes.trt.profiles import GivenShapes, bundle_profiles, parse_shapes
from seqexport.runtimes.trt.record import EngineRecord, PluginsUsed, read_record, weights_hash
from tests.conftest import Exported
from tests.cpp.conftest import Build
from tests.hub import in_hub_cache

SHIPPED = ("mamba", "transformer")
ROUTERS = ("qwen3_moe", "lfm2_moe", "nemotron_h_groups")
"""Each kind of router: softmax and renormalised; sigmoid with a correction; in groups besides."""

ABSENT = ("mamba2", "granite_hybrid_dense", "lfm2")
"""Families that leave optional inputs of our ops out: the scan's gate, beside attention too; the convolution's bias."""

NAMES = tuple(name.encode() for name in OPS)


def record_of(plan: Path) -> EngineRecord:
    """The record beside a plan, which says of it what is true."""
    record = read_record(plan.parent, plan.with_suffix(".json"), "")
    assert record.plan == plan.name
    assert record.sha256 == hashlib.sha256(plan.read_bytes()).hexdigest()
    assert record.seqexport == library.version()
    assert (record.gpu, record.compute_capability) == ("any", "")
    assert record.tensorrt.startswith("RTX 1.")
    return record


def assert_record_of_bundle(record: EngineRecord, bundle: Bundle) -> None:
    assert record.model_sha256 == bundle.manifest.files[MODEL]
    assert record.weights_sha256 == weights_hash(bundle) is not None
    expected = bundle_profiles(bundle.manifest)
    assert record.profiles == expected
    assert list(record.profiles) == list(expected)


@pytest.mark.parametrize("name", [*(f"preset:{name}" for name in SHIPPED), *ROUTERS])
def test_engine_with_plugins(name: str, build: Build, plugins: Path, exported: Exported, tmp_path: Path) -> None:
    bundle = exported(name, target="tensorrt")
    copied = tmp_path / "bundle"
    shutil.copytree(bundle.path, copied)

    result = build(copied, plugins=plugins)

    assert result.code == 0, result.err
    [plan] = (copied / "engines").glob("*.plan")
    record = record_of(plan)
    assert_record_of_bundle(record, bundle)
    assert plan.name == f"any-rtx{record.tensorrt.removeprefix('RTX ')}.plan"
    built = library.built(plugins)["tensorrt"]
    assert record.plugins == PluginsUsed(built.sha256, built.seqexport)
    assert record.flags == {}
    present = {op for op in NAMES if op in plan.read_bytes()}
    assert present == {op.encode() for op in bundle.manifest.ops}


@pytest.mark.parametrize("name", [*(f"preset:{name}" for name in SHIPPED), "gemma2", *ABSENT])
def test_engine_of_function_bodies(name: str, build: Build, exported: Exported, tmp_path: Path) -> None:
    bundle, plan = exported(name, target="portable"), tmp_path / "made" / "here.plan"

    result = build(bundle.path, "--no-plugins", "-o", plan)

    assert result.code == 0, result.err
    record = record_of(plan)
    assert_record_of_bundle(record, bundle)
    assert record.plugins is None
    assert record.flags == {"--no-plugins": ""}
    assert sorted(file.name for file in plan.parent.iterdir()) == ["here.json", "here.plan"]


def test_engine_of_a_bundle_in_the_hubs_cache(build: Build, exported: Exported, tmp_path: Path) -> None:
    cached = in_hub_cache(exported("gemma2", target="portable"), tmp_path)

    result = build(cached.path, "--no-plugins")

    assert result.code == 0, result.err
    [plan] = (cached.path / "engines").glob("*.plan")
    assert_record_of_bundle(record_of(plan), cached)


@pytest.mark.parametrize(
    "flags",
    [
        {"max": "input_ids:8x128"},
        {"opt": "seq_lens:3"},
        {"min": "seq_lens:2", "opt": "input_ids:6x900", "max": "input_ids:6x1000"},
        {"min": "input_ids:2x600", "max": "past_key_values.0.key:5x2x4096x32"},
    ],
)
def test_given_shapes_mean_what_they_mean_in_python(
    flags: dict[str, str], build: Build, plugins: Path, exported: Exported, tmp_path: Path
) -> None:
    bundle, plan = exported("preset:transformer", target="tensorrt"), tmp_path / "x.plan"
    options = {f"--{kind}Shapes": text for kind, text in flags.items()}

    words = [word for option in options.items() for word in option]
    result = build(bundle.path, "--output", plan, *words, plugins=plugins)

    assert result.code == 0, result.err
    given = GivenShapes(**{kind: parse_shapes("", text) for kind, text in flags.items()})
    record = record_of(plan)
    assert record.profiles == bundle_profiles(bundle.manifest, given)
    assert record.flags == options


def test_options_of_the_builder(build: Build, exported: Exported, tmp_path: Path) -> None:
    bundle, cache = exported("preset:mamba", target="portable"), tmp_path / "timings"
    flags = [
        "--builderOptimizationLevel=1",
        "--memPoolSize=workspace:2G,tacticSharedMem:48K",
        "--tactic-sources=none",
        f"--timingCacheFile={cache}",
    ]
    for _ in range(2):
        result = build(bundle.path, "--no-plugins", "-o", tmp_path / "x.plan", *flags)
        assert result.code == 0, result.err
        assert cache.stat().st_size > 0
    assert record_of(tmp_path / "x.plan").flags == {
        "--no-plugins": "",
        **dict(flag.split("=") for flag in flags[:3]),
    }


def plain_model(file: Path, rows: int | str) -> Path:
    weight = numpy_helper.from_array(np.eye(8, dtype=np.float32), "weight")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["y"])],
        "plain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, 8])],
        [weight],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), file)
    return file


def test_engine_of_any_onnx_file(build: Build, tmp_path: Path) -> None:
    model = plain_model(tmp_path / "plain.onnx", "rows")

    result = build(model, "--optShapes=x:4x8", "--maxShapes=x:32x8")

    assert result.code == 0, result.err
    assert "no bundle of ours" in result.err
    [plan] = tmp_path.glob("plain-any-rtx*.plan")
    record = record_of(plan)
    assert record.model_sha256 == hashlib.sha256(model.read_bytes()).hexdigest()
    assert record.plugins is None
    assert msgspec.to_builtins(record.profiles) == {"default": {"x": ((4, 8), (4, 8), (32, 8))}}


def test_engine_of_fixed_shapes_has_no_profile(build: Build, tmp_path: Path) -> None:
    plan = tmp_path / "fixed.plan"
    assert build(plain_model(tmp_path / "fixed.onnx", 5), "-o", plan).code == 0
    assert record_of(plan).profiles == {}
