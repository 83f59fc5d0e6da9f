"""Building engines without TensorRT: options, types, timing caches, and errors put into words."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest

from seqexport.plugins import library, toolchain
from seqexport.plugins.errors import UserError
from seqexport.runtimes.bundle import Bundle, open_bundle
from seqexport.runtimes.trt import engine, versions
from seqexport.runtimes.trt.cuda import Cuda
from seqexport.runtimes.trt.engine import BuildOptions, parse_pools
from seqexport.runtimes.trt.graph import graph_bytes
from seqexport.runtimes.trt.profiles import GivenShapes, bundle_profiles
from seqexport.runtimes.trt.record import Platform, PluginsUsed, find_engine
from tests.conftest import Exported, leave_out
from tests.runtimes.fake_gpu import FakeRuntime

HERE = Platform("NVIDIA H100 80GB HBM3", "9.0", "8.6.0")


@pytest.fixture
def bundle(exported: Exported) -> Bundle:
    return exported("llama", target="portable", logits="last")


def test_memory_pools_are_spelled_as_in_trtexec() -> None:
    assert parse_pools("workspace:1024,tacticSharedMem:48K") == {"workspace": 1 << 30, "tacticSharedMem": 48 << 10}
    assert parse_pools("workspace:2G,dlaSRAM:7B") == {"workspace": 2 << 30, "dlaSRAM": 7}
    assert parse_pools(None) == {}
    for text in ("workspace", "workspace:", ":1", "workspace:x", "workspace:1T", "workspace:K"):
        with pytest.raises(UserError, match=r"--memPoolSize .*: expected a pool and a size"):
            parse_pools(text)


class ParserError:
    def __init__(self, node: int, description: str) -> None:
        self.node, self.desc = (lambda: node), (lambda: description)


class FakeTrt:
    """A ``tensorrt`` whose parser and builder fail as they are told."""

    __version__ = "8.6.0"
    float32, float16 = "f32", "f16"
    NetworkDefinitionCreationFlag = SimpleNamespace(EXPLICIT_BATCH=0)

    class ILogger:
        ERROR, INTERNAL_ERROR = 1, 0

    def __init__(self, parse_errors: list[ParserError], says: list[str]) -> None:
        self.logger, self.log = versions.logger(type(self))
        self.log.clear()
        self.parse_errors, self.says = parse_errors, says

    def Builder(self, logger: Any) -> Any:  # noqa: N802
        network = SimpleNamespace(num_layers=0, num_inputs=0)
        return SimpleNamespace(create_network=lambda flags: network, build_serialized_network=self._fail)

    def OnnxParser(self, network: Any, logger: Any) -> Any:  # noqa: N802
        errors = self.parse_errors
        return SimpleNamespace(
            parse=lambda graph, path: self._fail() is None and not errors,
            num_errors=len(errors),
            get_error=lambda index: errors[index],
        )

    def _fail(self, *args: Any) -> None:
        for line in self.says:
            self.logger.log(self.ILogger.ERROR, line)

    def build(self, bundle: Bundle, options: BuildOptions) -> engine._Build:
        cuda: Any = SimpleNamespace(free_text=lambda: "1.00 GiB")
        tools = engine._Tools(self, self.logger, self.log, cuda, HERE)
        return engine._Build(tools, options, bundle.model, graph_bytes(bundle.model, drop=False))


def parse_refusal(bundle: Bundle, errors: list[ParserError], *says: str) -> str:
    with pytest.raises(UserError) as refused:
        FakeTrt(errors, list(says)).build(bundle, BuildOptions())
    return str(refused.value)


def test_what_the_parser_refuses_is_named_with_what_our_plugin_says(bundle: Bundle) -> None:
    nodes = onnx.load(bundle.model, load_external_data=False).graph.node
    index = next(i for i, node in enumerate(nodes) if node.op_type == "CausalAttention")
    where = f"cannot read {bundle.model}: node CausalAttention {nodes[index].name}".rstrip()
    errors = [ParserError(index, "Plugin not found,\n  are the plugin name and version correct?")]
    plain = parse_refusal(bundle, errors)
    assert plain.endswith(f"{where}: Plugin not found, are the plugin name and version correct?")
    ours = parse_refusal(bundle, errors, "something else", "[5] seqexport: CausalAttention 'x': query: expected rank 4")
    assert ours.endswith(f"{where}: CausalAttention 'x': query: expected rank 4")
    assert parse_refusal(bundle, [ParserError(10**6, "odd")]).endswith("node 1000000: odd")


class NamedError(ParserError):
    """As TensorRT 10 has it."""

    def node_operator(self) -> str:
        return "SelectiveScan"

    def node_name(self) -> str:
        return "/layers.0/scan"


def test_the_parsers_own_names_come_first(bundle: Bundle) -> None:
    assert "node SelectiveScan /layers.0/scan: odd" in parse_refusal(bundle, [NamedError(0, "odd")])


@pytest.mark.parametrize(
    ("says", "message"),
    [
        (
            ["Cuda Runtime (out of memory)"],
            r"device memory ran out while TensorRT 8.6.0 built .* \(free now: 1.00 GiB\)",
        ),
        (["no tactic", "seqexport: SelectiveScan 'a': x: odd"], r"cannot build .*: SelectiveScan 'a': x: odd"),
        (["no tactic"], "cannot build .*: no tactic"),
        ([], "cannot build .*: it does not say why"),
    ],
)
def test_what_the_builder_refuses_is_put_into_words(
    says: list[str], message: str, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = FakeTrt([], []).build(bundle, BuildOptions())
    build.tools.trt.says = says
    monkeypatch.setattr(build, "_config", lambda *args, **kwargs: SimpleNamespace())
    with pytest.raises(UserError, match=message):
        build.plan({}, None, SimpleNamespace())  # type: ignore[arg-type]


class Builds(FakeTrt):
    """Gives a plan."""

    def __init__(self, plan: bytes | None) -> None:
        super().__init__([], [])
        self.plan = plan

    def _fail(self, *args: Any) -> Any:
        return self.plan if len(args) == 2 else None


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes | None], None]:
    """Makes builds on this machine give a plan."""

    def give(plan: bytes | None) -> None:
        trt = Builds(plan)
        built = library.Built("tensorrt", Path("lib.so"), "1" * 64, "0.1.0", {"tensorrt": "8.6.0"})

        def here_and_now() -> engine._Tools:
            return engine._Tools(trt, trt.logger, trt.log, Cuda(FakeRuntime()), HERE)

        monkeypatch.setattr(engine._Tools, "here_and_now", here_and_now)
        monkeypatch.setattr(engine._Build, "_config", lambda *args, **kwargs: SimpleNamespace())
        monkeypatch.setattr(versions, "load_plugins", lambda trt: built)

    return give


@pytest.fixture
def copy(exported: Exported, tmp_path: Path) -> Bundle:
    source = exported("llama", target="tensorrt", logits="last").path
    return open_bundle(shutil.copytree(source, tmp_path / "bundle"))


def test_a_build_is_found_again_with_what_it_was_built_from(copy: Bundle, tools: Any) -> None:
    tools(b"the plan")
    given = GivenShapes(max={"input_ids": (2, 16)})
    flags = {"--maxShapes": "input_ids:2x16"}
    path = engine.build(copy, BuildOptions(shapes=given, flags=flags), SimpleNamespace())  # type: ignore[arg-type]
    plan, record = find_engine(copy, HERE)
    assert path.read_bytes() == plan == b"the plan"
    assert record.plugins == PluginsUsed("1" * 64, "0.1.0")
    assert record.profiles == bundle_profiles(copy.manifest, given)
    assert record.flags == flags


@pytest.mark.parametrize("family", ["lfm2_moe", "mixtral"])
def test_routers_that_are_one_op_are_not_warned_of(exported: Exported, tools: Any, family: str, tmp_path: Path) -> None:
    tools(b"the plan")
    source = exported(family, target="tensorrt", logits="last").path
    progress: Any = Warnings()
    engine.build(open_bundle(shutil.copytree(source, tmp_path / family)), BuildOptions(), progress)
    assert progress.said == []


@pytest.mark.parametrize(
    ("version", "ops", "graph", "warned"),
    [
        ("8.6.0", {"Experts": 1}, b"GatherElements", True),
        ("8.6.0", {"Experts": 1, "TopKRouter": 1}, b"", False),
        ("8.6.0", {"Linear": 1}, b"GatherElements", False),
        ("10.3.0", {"Experts": 1}, b"GatherElements", False),
    ],
)
def test_other_routers_by_sigmoid_in_tensorrt_8_are_warned_of(
    version: str, ops: dict[str, int], graph: bytes, warned: bool
) -> None:
    told = versions.known_fault(SimpleNamespace(__version__=version), ops, graph)
    assert (told is not None) == warned
    assert told is None or "gave wrong logits, or none that are finite, in TensorRT 8.6.0" in told


def test_a_build_that_fails_leaves_the_last_one(copy: Bundle, tools: Any) -> None:
    tools(b"the plan")
    engine.build(copy, BuildOptions(), SimpleNamespace())  # type: ignore[arg-type]
    tools(None)
    with pytest.raises(UserError, match="cannot build"):
        engine.build(copy, BuildOptions(), SimpleNamespace())  # type: ignore[arg-type]
    assert find_engine(copy, HERE)[0] == b"the plan"
    assert len(list((copy.path / "engines").iterdir())) == 2


def test_what_cannot_be_written_is_found_before_the_build(
    copy: Bundle, tools: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tools(b"the plan")
    monkeypatch.setattr(engine._Build, "__init__", lambda *args: pytest.fail("it was built"))
    (copy.path / "engines").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot write .*\.plan: .*; the engine was not built"):
        engine.build(copy, BuildOptions(), SimpleNamespace())  # type: ignore[arg-type]
    plain = tmp_path / "x.onnx"
    plain.write_bytes(b"")
    (tmp_path / f"x-{HERE.engine_name}.json").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*\.json: Is a directory; the engine was not built"):
        engine.build_plain(plain, BuildOptions(), SimpleNamespace())  # type: ignore[arg-type]


class TimingCacheConfig:
    """Knows caches that begin with ``good``."""

    def __init__(self, after: bytes) -> None:
        self.after = after

    def create_timing_cache(self, data: bytes) -> Any:
        return data if data[:4] in (b"", b"good") else None

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        return not ignore_mismatch

    def get_timing_cache(self) -> Any:
        return SimpleNamespace(serialize=lambda: self.after)


class Warnings:
    """A build's progress, of which only warnings are expected."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def warn(self, message: str) -> None:
        self.said.append(message)


def test_a_timing_cache_is_read_and_written_whole(bundle: Bundle, tmp_path: Path) -> None:
    file = tmp_path / "timings"
    progress: Any = Warnings()
    build = FakeTrt([], []).build(bundle, BuildOptions(timing_cache=file))
    config = TimingCacheConfig(b"good and new")
    assert build._read_timing_cache(config, progress) == b""
    build._write_timing_cache(config, b"", progress)
    assert file.read_bytes() == b"good and new"
    assert build._read_timing_cache(config, progress) == b"good and new"
    file.write_bytes(b"nonsense")
    with pytest.raises(UserError, match=f"--timingCacheFile {file}: not a timing cache of {HERE}"):
        build._read_timing_cache(config, progress)
    assert file.read_bytes() == b"nonsense"
    assert progress.said == []


def test_timings_that_cannot_be_written(bundle: Bundle, tmp_path: Path) -> None:
    """Refused before the build; after it, the engine is worth more than they are."""
    progress: Any = Warnings()
    (tmp_path / "folder").mkdir()
    for file in (tmp_path / "folder", Path("/proc/timings")):
        build = FakeTrt([], []).build(bundle, BuildOptions(timing_cache=file))
        with pytest.raises(UserError, match=f"--timingCacheFile {file}: cannot be read or written"):
            build._read_timing_cache(TimingCacheConfig(b"good"), progress)
        assert progress.said == []
        build._write_timing_cache(TimingCacheConfig(b"good"), b"", progress)
        assert f"--timingCacheFile {file}: cannot be written" in progress.said.pop()


def build_after_myelin(version: str, bundle: Bundle, file: Path) -> engine._Build:
    """A build by a TensorRT that has just refused Myelin's part of the timings in ``file``."""
    file.write_bytes(b"of Myelin")
    fake = FakeTrt([], [])
    build = fake.build(bundle, BuildOptions(timing_cache=file))
    fake.__version__ = version
    fake.log.add("1: [myelinCache.h] Error Code 1: Myelin (Myelin error from unknown graph)")
    return build


def test_a_build_goes_on_without_timings_that_old_tensorrt_wrote_and_cannot_read(
    bundle: Bundle, tmp_path: Path
) -> None:
    file = tmp_path / "timings"
    progress: Any = Warnings()
    build = build_after_myelin("8.6.0", bundle, file)
    assert build._read_timing_cache(TimingCacheConfig(b""), progress) == b"of Myelin"
    assert progress.said == [f"TensorRT 8.6.0 cannot read the timings it wrote to {file}: it measures again"]
    assert build.tools.log.cause() == ""


def test_from_10_on_refused_timings_of_myelin_are_an_error(bundle: Bundle, tmp_path: Path) -> None:
    progress: Any = Warnings()
    build = build_after_myelin("10.3.0", bundle, tmp_path / "timings")
    with pytest.raises(UserError, match=r"not a timing cache of .*Myelin error"):
        build._read_timing_cache(TimingCacheConfig(b""), progress)
    assert progress.said == []


@pytest.mark.parametrize("made_for", [{"tensorrt": "10.3.0"}, {}])
def test_a_library_for_another_tensorrt_is_refused(made_for: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    built = library.Built("tensorrt", Path("lib.so"), "0", "0.1.0", made_for)
    monkeypatch.setattr(library, "require", lambda name: built)
    with pytest.raises(
        UserError, match=r"built for TensorRT .*and this is 8.6.0; build it again: seqexport plugins build"
    ):
        versions.load_plugins(FakeTrt)


def test_a_plugin_of_others_under_a_name_of_ours_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = toolchain.find_toolchain().cxx.path
    if compiler is None:
        leave_out("a test of plugins of the same name left out: no C++ compiler")
    path = tmp_path / library.FILES["tensorrt"]
    source = tmp_path / "says.cpp"
    source.write_text("""extern "C" const char* seqexport_tensorrt_conflict() { return "Linear is taken"; }""")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", path, source], check=True)
    built = library.Built("tensorrt", path, "", "", {"tensorrt": "8.6.0", "cuda": "11.8"})
    monkeypatch.setattr(library, "require", lambda name: built)
    monkeypatch.setattr(versions.cublas, "load", lambda major: "libcublasLt.so")
    monkeypatch.setattr(versions, "_register", lambda trt, path: None)
    with pytest.raises(UserError, match=f"{re.escape(str(path))}: Linear is taken"):
        versions.load_plugins(FakeTrt)


def test_tensorrts_names_are_checked() -> None:
    trt = SimpleNamespace(
        __version__="8.6.0",
        TacticSource=SimpleNamespace(__members__={"CUBLAS": 0, "CUDNN": 2}),
        MemoryPoolType=SimpleNamespace(__members__={"WORKSPACE": 0}),
        PreviewFeature=SimpleNamespace(__members__={"FASTER_DYNAMIC_SHAPES_0805": 0, "PROFILE_SHARING_0806": 2}),
    )
    features = versions.preview_features(trt, ["-fasterDynamicShapes0805", "+profileSharing0806"])
    assert features == {0: False, 2: True}
    for wrong in ("fasterDynamicShapes0805", "+faster", ""):
        with pytest.raises(
            UserError, match=f"--preview '{re.escape(wrong)}': expected . or - and a feature of TensorRT 8.6.0"
        ):
            versions.preview_features(trt, [wrong])
    assert versions.tactic_sources(trt, ["CUDNN"]) == [2]
    assert versions.memory_pool(trt, "workspace") == 0
    with pytest.raises(UserError, match=r"--tactic-sources 'X': TensorRT 8.6.0 has CUBLAS, CUDNN, or none"):
        versions.tactic_sources(trt, ["X"])
    with pytest.raises(UserError, match=r"--memPoolSize tacticSharedMem: the pools of TensorRT 8.6.0 are workspace"):
        versions.memory_pool(trt, "tacticSharedMem")
