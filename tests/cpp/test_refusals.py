"""What seqexport-build does not build: one line on stderr that says why, exit code 2, and no plan."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from seqexport.plugins import library
from seqexport.plugins.reading import sha256
from seqexport.runtimes.bundle import MANIFEST, MODEL
from tests.conftest import Exported
from tests.cpp.conftest import RTX_HEADERS, Build
from tests.cpp.embedded import WORK
from tests.cpp.test_engines import plain_model
from tests.runtimes.test_external_data import NAMES, everywhere, save_weights_in
from tests.tensorrt.compiler import compile_cleanly

Edit = Callable[[onnx.ModelProto, onnx.NodeProto], None]


@pytest.fixture
def bundle(exported: Exported, tmp_path: Path) -> Path:
    """A copy of the shipped Mamba for TensorRT, to be spoilt."""
    return shutil.copytree(exported("preset:mamba", target="tensorrt").path, tmp_path / "bundle")


@pytest.fixture(autouse=True)
def leaves_nothing(tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    yield
    assert not [file for file in tmp_path.rglob("*") if ".plan" in file.name or file.name == "engines"]


def edit_scan(bundle: Path, edit: Edit) -> None:
    """Change the first SelectiveScan of a bundle's graph, and seal the bundle again."""
    file = bundle / MODEL
    model = onnx.load(file, load_external_data=False)
    edit(model, next(node for node in model.graph.node if node.op_type == "SelectiveScan"))
    file.write_bytes(model.SerializeToString())
    manifest = json.loads((bundle / MANIFEST).read_text())
    manifest["files"][MODEL] = sha256(file)
    (bundle / MANIFEST).write_text(json.dumps(manifest))


def replace_a(change: Callable[[np.ndarray], np.ndarray]) -> Edit:
    def edit(model: onnx.ModelProto, node: onnx.NodeProto) -> None:
        name = node.input[2]
        old = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        shape = tuple(old.dims)
        old.CopyFrom(numpy_helper.from_array(change(np.zeros(shape, np.float32)), name))

    return edit


def set_attribute(name: str, value: int) -> Edit:
    def edit(model: onnx.ModelProto, node: onnx.NodeProto) -> None:
        next(attribute for attribute in node.attribute if attribute.name == name).i = value

    return edit


def place_weights(name: str, model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    """One tensor lies in another file."""
    entries = next(tensor.external_data for tensor in model.graph.initializer if tensor.external_data)
    next(entry for entry in entries if entry.key == "location").value = name


def drop_input(model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    node.input.pop()


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (replace_a(lambda a: np.pad(a, ((0, 0), (0, 1)))), ("N=17", "N is 17 by input 'A'")),
        (replace_a(lambda a: a[0]), ("input 'A'", "[16]")),
        (replace_a(lambda a: a.astype(np.float16)), ("input 'A' must be float32, got float16",)),
        (set_attribute("dt_softplus", 7), ("attribute 'dt_softplus'", "got 7")),
        (drop_input, ("expected 10 inputs", "got 9")),
    ],
    ids=["wrong N", "wrong rank", "wrong dtype", "wrong attribute", "input missing"],
)
def test_the_plugin_says_what_is_wrong_with_its_node(
    edit: Edit, told: tuple[str, ...], build: Build, plugins: Path, bundle: Path
) -> None:
    edit_scan(bundle, edit)
    refusal = build(bundle, plugins=plugins).refusal
    assert "SelectiveScan 'node_selective_scan" in refusal
    for text in told:
        assert text in refusal


def test_changed_and_truncated_graphs(build: Build, plugins: Path, bundle: Path) -> None:
    graph = (bundle / MODEL).read_bytes()
    (bundle / MODEL).write_bytes(graph[:-100])
    assert f"{bundle / MODEL}: sha256" in build(bundle, plugins=plugins).refusal
    (bundle / MODEL).write_bytes(graph)
    weights = bundle / f"{MODEL}.data"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    assert f"{weights}: sha256" in build(bundle, plugins=plugins).refusal


ANOTHER = """
#include <NvInfer.h>
struct Another final : nvinfer1::IPluginCreatorV3One {
  const char* getPluginName() const noexcept override { return "SelectiveScan"; }
  const char* getPluginVersion() const noexcept override { return "1"; }
  const char* getPluginNamespace() const noexcept override { return ""; }
  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &none; }
  nvinfer1::IPluginV3* createPlugin(const char*, const nvinfer1::PluginFieldCollection*,
                                    nvinfer1::TensorRTPhase) noexcept override { return nullptr; }
  nvinfer1::PluginFieldCollection none{};
} another;
bool registered = getPluginRegistry()->registerCreator(another, "");
"""
"""A library with a plugin that has the name of one of ours."""


def test_a_plugin_of_others_under_a_name_of_ours(build: Build, plugins: Path, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "another.cpp").write_text(ANOTHER)
    other = tmp_path / "another.so"
    rtx = WORK / "rtx_libraries" / "libtensorrt_rtx.so"
    compile_cleanly(RTX_HEADERS, "-shared", "-Xcompiler", "-fPIC", "-o", other, tmp_path / "another.cpp", rtx)
    refusal = build(bundle, plugins=plugins, env={"LD_PRELOAD": str(other)}).refusal
    wanted = f"plugin '::SelectiveScan, version 1', is already registered with TensorRT by {other}"
    assert refusal.startswith(f"{library.built(plugins)['tensorrt'].path}: {wanted}")
    assert "keep the two in processes of their own" in refusal


def test_what_is_no_bundle(build: Build, bundle: Path, tmp_path: Path) -> None:
    assert "no such file or folder" in build(tmp_path / "absent").refusal
    assert "is not a bundle: it has no seqexport.json" in build(tmp_path).refusal
    manifest = bundle / MANIFEST
    whole = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(whole | {"format_version": 3}))
    assert "format version 3, this seqexport reads 1 to 2; upgrade" in build(bundle).refusal
    manifest.write_text(json.dumps(whole | {"inputs": [{"name": "x", "shape": [""]}]}))
    assert "is damaged: an axis without size and name" in build(bundle).refusal
    manifest.write_text(manifest.read_text()[:-20])
    assert f"{manifest} is damaged" in build(bundle).refusal
    manifest.unlink()
    manifest.mkdir()
    assert "is not a bundle" in build(bundle).refusal


def last_line(build: Build, *args: object) -> str:
    """The refusal of a file that is no bundle, which is said in the line before."""
    result = build(*args)
    assert result.code == 2
    note, error = result.err.splitlines()
    assert "no bundle of ours" in note
    return error


def test_plain_onnx_files(build: Build, bundle: Path, tmp_path: Path) -> None:
    model = plain_model(tmp_path / "plain.onnx", "rows")
    assert "input x has the shape x[0]x8" in last_line(build, model)
    assert "the graph has no input z; it has x" in last_line(build, model, "--optShapes=z:1x8")
    assert "--maxShapes x:4x9: the input's shape is x[0]x8" in last_line(build, model, "--maxShapes=x:4x9")
    model.write_bytes(model.read_bytes()[:-20])
    assert f"cannot parse {model}: " in last_line(build, model, "--optShapes=x:1x8")
    (bundle / MANIFEST).unlink()
    without = last_line(build, bundle / MODEL)
    assert "Embedding 'node_" in without
    assert "give --plugins=libseqexport_tensorrt.so" in without


def test_an_axis_that_engines_do_not_have(build: Build, exported: Exported, tmp_path: Path) -> None:
    folder = shutil.copytree(exported("preset:mamba", target="portable").path, tmp_path / "bundle")
    whole = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(whole | {"inputs": [{"name": "x", "shape": ["width"]}]}))
    told = "input x has an axis width: engines of bundles are built for batch, seq and max_len"
    assert told in build(folder, "--no-plugins").refusal


def test_targets_that_do_not_fit(build: Build, exported: Exported, bundle: Path) -> None:
    assert "leave out --no-plugins" in build(bundle, "--no-plugins").refusal
    portable = exported("preset:mamba", target="portable").path
    assert "or say --no-plugins" in build(portable).refusal
    experts = exported("mixtral", target="portable").path
    assert "cannot read the function body of Experts" in build(experts, "--no-plugins").refusal
    for_ort = exported("preset:mamba", target="ort").path
    assert "exported for target ort" in build(for_ort, "--no-plugins").refusal


def test_plugin_libraries_that_are_not_loaded(build: Build, plugins: Path, bundle: Path, tmp_path: Path) -> None:
    assert "not built on this machine; build it: seqexport plugins build" in build(bundle).refusal
    assert "no such file" in build(bundle, "--plugins", tmp_path / "absent.so").refusal

    built = library.built(plugins)["tensorrt"]
    alone = shutil.copy(built.path, tmp_path / "alone.so")
    with Path(alone).open("r+b") as stream:
        stream.truncate(built.path.stat().st_size - 4096)
    assert "damaged, not a whole shared library" in build(bundle, "--plugins", alone).refusal
    other = shutil.copy(library.built(plugins)["kernels"].path, tmp_path / "other.so")
    assert "not this seqexport's plugin library" in build(bundle, "--plugins", other).refusal


def test_manifest_decides_about_its_library(build: Build, plugins: Path, bundle: Path, tmp_path: Path) -> None:
    built = library.built(plugins)["tensorrt"]
    folder = tmp_path / "installed"
    folder.mkdir()
    file = Path(shutil.copy(built.path, folder))
    manifest = folder / library.MANIFEST
    entry = json.loads((plugins / library.MANIFEST).read_text())["tensorrt"]

    def refusal(**changed: object) -> str:
        manifest.write_text(json.dumps({"tensorrt": entry | changed}))
        return build(bundle, plugins=folder).refusal

    assert "built by seqexport 0.0.9" in refusal(seqexport="0.0.9")
    assert "built for TensorRT 8.6.1, this is TensorRT-RTX" in refusal(built_for={"tensorrt": "8.6.1"})
    with file.open("r+b") as stream:
        stream.seek(5000)
        stream.write(b"!")
    assert "damaged, its sha256 is not the one that plugins.json has" in refusal()
    manifest.write_text("{")
    assert "not a manifest of plugin libraries" in build(bundle, plugins=folder).refusal


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--fp16"], "unknown flag --fp16"),
        (["--maxShapes"], "--maxShapes needs a value"),
        (["--no-plugins=yes"], "--no-plugins takes no value"),
        (["second"], "one BUNDLE only"),
        (["--minShapes=input_ids:1xx1"], "expected INPUT:SIZExSIZE"),
        (["--minShapes=seq_lens:1,seq_lens:2"], "seq_lens is given twice"),
        (["--maxShapes=input_ids:8x64,seq_lens:4"], "--maxShapes seq_lens:4: another shape of --maxShapes has batch 8"),
        (["--maxShapes=input_ids:8"], "the input's shape is batchxseq"),
        (["--minShapes=seq_lens:3", "--maxShapes=seq_lens:2"], "axis batch: min 3"),
        (["--maxShapes=input_ids:1x8193"], "the bundle's capacity is 8192"),
        (["--builderOptimizationLevel=6"], "expected 0 to 5"),
        (["--memPoolSize=workspace"], "expected POOL:SIZE"),
        (["--memPoolSize=heap:1"], "no pool heap; expected one of"),
        (["--memPoolSize=workspace:16"], "or give another --memPoolSize"),
        (["--tactic-sources=CUBLAS"], "no CUBLAS in TensorRT-RTX"),
        (["--versionCompatible"], "TensorRT-RTX 1.7.1 has no such engines"),
        (["--setPluginsToSerialize"], "--setPluginsToSerialize and --no-plugins exclude each other"),
        (["--plugins=x.so"], "--plugins and --no-plugins exclude each other"),
        (["--timingCacheFile=/"], "/: cannot be read (Is a directory)"),
        (["-o", "/dev/null/x.plan"], "/dev/null/x.plan: cannot be written"),
        (["-o", "engine.json"], ".json is the record's"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_flags(words: list[str], told: str, build: Build, exported: Exported) -> None:
    portable = exported("preset:transformer", target="portable").path
    assert told in build(portable, "--no-plugins", *words).refusal


def test_a_record_that_cannot_be_written_leaves_no_plan(build: Build, exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "x.json").mkdir()  # the record's place is taken
    portable = exported("preset:mamba", target="portable").path
    assert "cannot be written" in build(portable, "--no-plugins", "-o", tmp_path / "x.plan").refusal


def test_a_plan_that_was_there_survives(build: Build, exported: Exported, tmp_path: Path) -> None:
    """Whatever a build fails at, both of its files stay what they were, and nothing is left beside them."""
    portable = exported("preset:transformer", target="portable").path
    plan, record = tmp_path / "old.engine", tmp_path / "old.json"
    plan.write_bytes(b"old plan")
    record.write_text('{"plan": "old.engine", "sha256": ""}')

    def refusal(*words: object) -> str:
        refused = build(portable, "--no-plugins", "-o", plan, *words).refusal
        assert plan.read_bytes() == b"old plan"
        return refused

    assert "or give another --memPoolSize" in refusal("--memPoolSize=workspace:16")
    assert "is a file that the build itself needs" in refusal(f"--timingCacheFile={plan}")
    record.write_text('{"name": "my package"}')
    assert f"its record would replace {record}, which is no engine's" in refusal()
    record.unlink()
    record.mkdir()
    assert "old.json: cannot be written" in refusal()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["old.engine", "old.json"]


def test_a_bundle_s_own_files_are_never_replaced(build: Build, exported: Exported, tmp_path: Path) -> None:
    bundle = shutil.copytree(exported("preset:mamba", target="portable").path, tmp_path / "bundle")
    before = {file.name: sha256(file) for file in bundle.iterdir()}
    for name in ("model.onnx", "model.onnx.data", "seqexport.engine", "tokenizer.engine"):
        assert "give another name" in build(bundle, "--no-plugins", "-o", bundle / name).refusal
    assert {file.name: sha256(file) for file in bundle.iterdir()} == before


def test_what_cannot_be_written_is_found_before_the_build(build: Build, exported: Exported) -> None:
    portable = exported("preset:mamba", target="portable").path
    for flag in ("--output=/proc/x.plan", "--timingCacheFile=/proc/x.cache"):
        result = build(portable, "--no-plugins", "--verbose", flag)
        assert result.code == 2
        assert ": cannot be written" in result.err.splitlines()[-1]
        assert "Engine generation" not in result.err and "Compiler backend" not in result.err


def test_links_and_weights_outside_of_the_bundle(build: Build, plugins: Path, bundle: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    weights = bundle / f"{MODEL}.data"
    weights.rename(elsewhere)
    weights.symlink_to(elsewhere)
    assert f"file '{MODEL}.data' lies outside the bundle" in build(bundle, plugins=plugins).refusal
    weights.unlink()
    for name in (str(elsewhere), "../elsewhere"):
        edit_scan(bundle, partial(place_weights, name))
        assert f"has weights in '{name}', which seqexport.json does not name" in build(bundle).refusal


def test_weights_of_any_file_outside_of_its_folder(build: Build, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    model = tmp_path / "in" / "x.onnx"
    for name in ("/etc/hostname", "../x.data", "*/_ORT_MEM_ADDR_/*"):
        save_weights_in(model, name)
        assert f"has weights in '{name}', outside its folder" in last_line(build, model)
    model.write_bytes(everywhere().SerializeToString())
    [first, *_] = sorted(NAMES)
    (tmp_path / "in" / first).symlink_to("/etc/hostname")
    assert f"has weights in '{first}', outside its folder" in last_line(build, model)


@pytest.mark.parametrize("home", [{}, {"HOME": ""}, {"HOME": "home"}, {"HOME": "", "XDG_DATA_HOME": ".local/share"}])
def test_the_current_folder_is_no_home(
    home: dict[str, str], build: Build, plugins: Path, bundle: Path, tmp_path: Path
) -> None:
    for folder in (".local/share", "home/.local/share"):
        shutil.copytree(plugins, tmp_path / folder / "seqexport" / "plugins")
    refusal = build(bundle, plugins=Path(""), env={"SEQEXPORT_PLUGINS": "", **home}, cwd=tmp_path).refusal
    assert str(tmp_path) not in refusal
    assert "libseqexport_tensorrt.so: not built on this machine" in refusal


def test_help_and_version(build: Build) -> None:
    shown = build("--help")
    assert shown.code == 0
    assert "Examples:" in shown.out
    assert build("--version").out.startswith(f"seqexport-build {library.version()}, rtx1.")
    assert "no BUNDLE is given" in build().refusal
