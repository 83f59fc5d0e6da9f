"""What TensorRT's builder is told: flags, shapes and limits, as Polygraphy passes them on."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum, IntEnum
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.trt import engine, versions
from seqexport.runtimes.trt.engine import BuildOptions
from seqexport.runtimes.trt.profiles import GivenShapes, bundle_profiles
from seqexport.runtimes.trt.record import Platform
from tests.conftest import Exported


class Flag(Enum):
    FP16 = "FP16"
    BF16 = "BF16"
    TF32 = "TF32"
    OBEY_PRECISION_CONSTRAINTS = "OBEY_PRECISION_CONSTRAINTS"
    VERSION_COMPATIBLE = "VERSION_COMPATIBLE"


class Preview(Enum):
    PROFILE_SHARING_0806 = "PROFILE_SHARING_0806"
    FASTER_DYNAMIC_SHAPES_0805 = "FASTER_DYNAMIC_SHAPES_0805"


class Source(IntEnum):
    CUBLAS = 0
    CUDNN = 2


class Config:
    """``IBuilderConfig``: TF32 is on until it is cleared."""

    def __init__(self) -> None:
        self.flags, self.pools, self.features = {Flag.TF32}, dict[str, int](), dict[Preview, bool]()
        self.profiles: list[dict[str, Any]] = []
        self.sources = -1

    def set_flag(self, flag: Flag) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: Flag) -> None:
        self.flags.discard(flag)

    def set_memory_pool_limit(self, pool: str, size: int) -> None:
        self.pools[pool] = size

    def set_tactic_sources(self, sources: int) -> None:
        self.sources = sources

    def set_preview_feature(self, feature: Preview, on: bool) -> None:
        self.features[feature] = on

    def add_optimization_profile(self, profile: Shapes) -> None:
        self.profiles.append(profile.shapes)

    def create_timing_cache(self, data: bytes) -> bytes:
        return data

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        return True


class Shapes:
    """``IOptimizationProfile``, which takes smallest, best and largest in this order."""

    def __init__(self) -> None:
        self.shapes: dict[str, Any] = {}

    def set_shape(self, name: str, low: Any, best: Any, high: Any) -> None:
        assert all(a <= b <= c for a, b, c in zip(low, best, high, strict=True)), name
        self.shapes[name] = (tuple(low), tuple(best), tuple(high))


class Network:
    """``INetworkDefinition``: inputs, and layers that give what they are given."""

    def __init__(self, inputs: list[Any], dtype: str = "f32") -> None:
        self.num_inputs, self.get_input = len(inputs), inputs.__getitem__
        given, gives = SimpleNamespace(name="x", dtype=dtype), SimpleNamespace(name="y", dtype="f32")
        self.layers = [Layer("CAST", [], [given]), Layer("MATRIX_MULTIPLY", [given], [gives])]
        self.num_layers, self.get_layer = len(self.layers), self.layers.__getitem__

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)


class Layer:
    precision_is_set, precision = False, ""

    def __init__(self, kind: str, inputs: list[Any], outputs: list[Any]) -> None:
        self.type = SimpleNamespace(name=kind)
        self.num_inputs, self.get_input = len(inputs), inputs.__getitem__
        self.num_outputs, self.get_output = len(outputs), outputs.__getitem__

    def set_output_type(self, index: int, dtype: str) -> None:
        pass


def trt(version: str) -> Any:
    return SimpleNamespace(
        __version__=version,
        float32="f32",
        float16="f16",
        BuilderFlag=Flag,
        PreviewFeature=Preview,
        TacticSource=Source,
        MemoryPoolType=SimpleNamespace(__members__={"WORKSPACE": "the workspace"}),
        NetworkDefinitionCreationFlag=SimpleNamespace(EXPLICIT_BATCH=0, STRONGLY_TYPED=1),
        ILogger=SimpleNamespace(ERROR=1, INTERNAL_ERROR=0),
    )


@pytest.fixture
def bundle(exported: Exported) -> Bundle:
    return exported("llama", target="portable", logits="last")


def config_of(
    bundle: Bundle,
    options: BuildOptions,
    monkeypatch: pytest.MonkeyPatch,
    *,
    dtype: str = "f32",
    version: str = "8.6.0",
) -> Config:
    """What the builder is given with a network that computes in ``dtype``."""
    fake = trt(version)
    monkeypatch.setattr(import_module("polygraphy.backend.trt.config"), "trt", fake)
    inputs = [
        SimpleNamespace(name=spec.name, shape=spec.shape, dtype=spec.dtype, is_shape_tensor=False)
        for spec in bundle.manifest.inputs
    ]
    built: list[Config] = []

    def build_plan(network: Network, config: Config) -> bytes:
        built.append(config)
        return b"plan"

    build = object.__new__(engine._Build)
    here = Platform("Fake GPU", "9.0", version)
    build.tools = engine._Tools(fake, None, versions.Log(), SimpleNamespace(), here)  # type: ignore[arg-type]
    build.options, build.model, build.network = options, Path("model.onnx"), Network(inputs, dtype)
    build.builder = SimpleNamespace(
        create_builder_config=Config, create_optimization_profile=Shapes, build_serialized_network=build_plan
    )
    build.plan(bundle_profiles(bundle.manifest, options.shapes), None, SimpleNamespace())  # type: ignore[arg-type]
    return built[0]


def test_profiles_reach_the_builder_in_their_order(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    given = GivenShapes(min={"input_ids": (1, 2)}, opt={"input_ids": (2, 16)}, max={"input_ids": (3, 32)})
    found = config_of(bundle, BuildOptions(shapes=given), monkeypatch).profiles
    assert found == list(bundle_profiles(bundle.manifest, given).values())
    assert found[0]["input_ids"] == ((1, 2), (2, 16), (3, 32))
    assert found[1]["input_ids"] == ((1, 1), (2, 1), (3, 1))


def test_half_precision_is_allowed_where_the_graph_has_it_and_held_to_its_layers(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = config_of(bundle, BuildOptions(), monkeypatch, dtype="f16")
    assert half.flags == {Flag.FP16, Flag.OBEY_PRECISION_CONSTRAINTS}
    assert config_of(bundle, BuildOptions(), monkeypatch).flags == set(), "float32 is float32, not TF32"
    strong = config_of(bundle, BuildOptions(), monkeypatch, dtype="f16", version="10.3.0")
    assert strong.flags == set(), "a strongly typed network says it itself"


def test_options_reach_the_builder(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    options = BuildOptions(
        memory_pools={"workspace": 1 << 30},
        optimization_level=2,
        version_compatible=True,
        tactic_sources=["CUDNN"],
        preview=["+fasterDynamicShapes0805"],
    )
    config: Any = config_of(bundle, options, monkeypatch)
    assert (config.pools, config.builder_optimization_level, config.sources) == ({"the workspace": 1 << 30}, 2, 4)
    assert config.flags == {Flag.VERSION_COMPATIBLE}
    assert config.features == {Preview.PROFILE_SHARING_0806: True, Preview.FASTER_DYNAMIC_SHAPES_0805: True}


def test_the_usual_preview_features_are_for_8_alone(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = {Preview.PROFILE_SHARING_0806: True, Preview.FASTER_DYNAMIC_SHAPES_0805: False}
    assert config_of(bundle, BuildOptions(), monkeypatch).features == usual
    assert config_of(bundle, BuildOptions(), monkeypatch, version="10.3.0").features == {}


@pytest.mark.parametrize(("version", "flags"), [("8.6.0", 1 << 0), ("10.3.0", 1 << 1), ("11.1.0", 0)])
def test_networks_are_strongly_typed_from_10_on(version: str, flags: int) -> None:
    """So bfloat16, which no flag of the builder's turns on, is computed where the graph says it."""
    assert versions.network_flags(trt(version)) == flags
