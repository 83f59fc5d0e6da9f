"""The bundle reader raises its own error or works."""

import json
import os
import re
import shutil
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqexport.plugins.errors import UserError
from seqexport.plugins.reading import sha256
from seqexport.runtimes.bundle import (
    MANIFEST,
    MODEL,
    BundleError,
    check_destination,
    open_bundle,
    write_manifest,
)
from seqexport.runtimes.manifest import FORMAT_VERSION, LanguageModel, Manifest, Source, StateSpec, TensorSpec
from tests.hub import in_hub_cache
from tests.runtimes.graphs import lying_in, save_graph

CACHE = ("batch", 2, "max_len", 4)


def manifest(**changes):
    base = Manifest(
        format_version=FORMAT_VERSION,
        architecture="llama",
        family="transformer",
        dtype="float16",
        language_model=LanguageModel(vocab_size=9, eos_token_ids=(2,), logits="last"),
        target="portable",
        opset=20,
        capacity=16,
        inputs=(
            TensorSpec(name="input_ids", dtype="int64", shape=("batch", "seq"), role="tokens"),
            TensorSpec(name="past_key_values.3.key", dtype="float16", shape=CACHE, role="past"),
        ),
        outputs=(
            TensorSpec(name="logits", dtype="float32", shape=("batch", 1, 9), role="logits"),
            TensorSpec(name="present.3.key", dtype="float16", shape=CACHE, role="present"),
        ),
        states=(StateSpec(layer=3, kind="key", shape=CACHE, dtype="float16"),),
        caches_in_place=False,
        ops={"CausalAttention": 1},
        source=Source(model="x", parameters=1, seqexport="0", torch="2", transformers="5", date="2026-01-01"),
        files={},
    )
    return msgspec.structs.replace(base, **changes)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "bundle"
    path.mkdir()
    save_graph(path / MODEL, manifest())
    write_manifest(path, manifest(files={MODEL: sha256(path / MODEL)}))
    return path


def test_what_is_written_is_read(folder):
    bundle = open_bundle(folder)
    assert bundle.manifest == manifest(files=bundle.manifest.files)
    assert bundle.manifest.states[0].past_name == "past_key_values.3.key"
    assert bundle.manifest.state_bytes(batch=3, capacity=16) == 3 * 2 * 16 * 4 * 2
    assert bundle.tokenizer is None


def test_not_a_bundle(tmp_path):
    with pytest.raises(BundleError, match="is not a bundle"):
        open_bundle(tmp_path)
    with pytest.raises(BundleError, match="is not a bundle"):
        open_bundle(tmp_path / "nowhere")


def test_newer_format(folder):
    text = (folder / MANIFEST).read_text().replace('"format_version": 2', '"format_version": 99')
    (folder / MANIFEST).write_text(text.replace('"architecture"', '"a_field_of_the_future": 1, "architecture"'))
    with pytest.raises(BundleError, match=r"format version 99.*upgrade seqexport"):
        open_bundle(folder)


def test_changed_file_is_named(folder):
    (folder / "model.onnx").write_bytes(b"graph")
    with pytest.raises(BundleError, match=r"model\.onnx: sha256"):
        open_bundle(folder)


def test_missing_file_is_named(folder):
    (folder / "model.onnx").unlink()
    with pytest.raises(BundleError, match=r"model\.onnx: cannot be read"):
        open_bundle(folder)


def test_a_bundle_in_the_hubs_cache(folder, tmp_path):
    cached = in_hub_cache(open_bundle(folder), tmp_path)
    assert cached.model.is_symlink()
    assert open_bundle(cached.path).name == "tiny"
    cached.model.resolve().write_bytes(b"graph")
    with pytest.raises(BundleError, match=r"snapshots/abab.*/model\.onnx: sha256"):
        open_bundle(cached.path)
    cached.model.resolve().unlink()
    with pytest.raises(BundleError, match=r"model\.onnx: cannot be read .* copy or export the bundle again"):
        open_bundle(cached.path)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../b"])
def test_files_outside_the_bundle_are_refused(folder, name):
    write_manifest(folder, manifest(files={name: "0" * 64}))
    with pytest.raises(BundleError, match="outside the bundle"):
        open_bundle(folder)


def linked(folder, target):
    """The bundle's graph replaced by a link."""
    (folder / MODEL).unlink()
    (folder / MODEL).symlink_to(target)


def test_a_link_out_of_the_bundle_is_refused(folder):
    shutil.copy(folder / MODEL, folder.parent / "elsewhere")
    linked(folder, folder.parent / "elsewhere")
    with pytest.raises(BundleError, match=r"file 'model\.onnx' lies outside the bundle; put the file itself into it"):
        open_bundle(folder)
    shutil.copy(folder.parent / "elsewhere", folder / "within")
    linked(folder, "within")
    assert open_bundle(folder).manifest == manifest(files={MODEL: sha256(folder / MODEL)})
    linked(folder, MODEL)
    with pytest.raises(BundleError, match="lies outside the bundle"):
        open_bundle(folder)


def test_the_blobs_of_the_hub_s_cache_are_of_the_bundle(folder, tmp_path):
    home = tmp_path / "models--x--y"
    cached = shutil.copytree(folder, home / "snapshots" / "0123" / "my-bundle")
    (home / "blobs").mkdir()
    (cached / MODEL).rename(home / "blobs" / "abcd")
    (cached / MODEL).symlink_to("../../../blobs/abcd")
    assert open_bundle(cached).manifest == open_bundle(folder).manifest
    shutil.copy(home / "blobs" / "abcd", home / "abcd")
    linked(cached, "../../../abcd")
    with pytest.raises(BundleError, match="lies outside the bundle"):
        open_bundle(cached)


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret", "secret", "C:\\secret"])
def test_weights_that_are_no_file_of_the_bundle_are_refused(folder, name):
    (folder / "secret").write_bytes(b"abc")
    save_graph(folder / MODEL, manifest(), lying_in(name))
    write_manifest(folder, manifest(files={MODEL: sha256(folder / MODEL)}))
    with pytest.raises(BundleError, match=f"has weights in {re.escape(repr(name))}, which {MANIFEST} does not name"):
        open_bundle(folder)
    write_manifest(folder, manifest(files={n: sha256(folder / n) for n in (MODEL, "secret")}))
    if name == "secret":
        assert open_bundle(folder)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200))
def test_fuzz_arbitrary_bytes(folder, data):
    (folder / MANIFEST).write_bytes(data)
    with pytest.raises(BundleError):
        open_bundle(folder)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_fuzz_one_changed_value(folder, data):
    good = msgspec.to_builtins(manifest(files={"model.onnx": sha256(folder / "model.onnx")}))
    field = data.draw(st.sampled_from(sorted(good)))
    (folder / MANIFEST).write_text(json.dumps(good | {field: data.draw(JSON)}))
    opens_or_explains(folder)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 3000), flips=st.lists(st.tuples(st.integers(0, 2999), st.integers(0, 255)), max_size=4))
def test_fuzz_cut_and_flipped_bytes(folder, cut, flips):
    write_manifest(folder, manifest(files={"model.onnx": sha256(folder / "model.onnx")}))
    data = bytearray((folder / MANIFEST).read_bytes())
    for position, value in flips:
        data[position % len(data)] = value
    (folder / MANIFEST).write_bytes(data[:cut])
    opens_or_explains(folder)


def opens_or_explains(folder: Path) -> None:
    try:
        bundle = open_bundle(folder)
    except BundleError as error:
        message = str(error)
    else:
        message = ""
        bundle.manifest.state_bytes(1, 1)
    assert "\n" not in message


def test_destination(folder, tmp_path):
    check_destination(tmp_path / "new", force=False)
    with pytest.raises(BundleError, match="`force=True`"):
        check_destination(folder, force=False)
    check_destination(folder, force=True)
    shutil.copytree(folder, tmp_path / "precious")
    (tmp_path / "precious" / MANIFEST).unlink()
    with pytest.raises(BundleError, match="is not a bundle; it is left as it is"):
        check_destination(tmp_path / "precious", force=True)
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleError, match="is not a bundle"):
        check_destination(tmp_path / "file", force=True)


VERSION_1 = Path(__file__).parent / "manifest_version_1.json"
"""As the first version wrote it, of the shipped Transformer."""


@pytest.fixture
def old(tmp_path):
    """A bundle of version 1; its other files do not matter here."""
    (tmp_path / MANIFEST).write_bytes(VERSION_1.read_bytes())
    return tmp_path


def test_a_bundle_of_version_1_opens(old):
    told, manifest = json.loads(VERSION_1.read_text()), open_bundle(old, check_files=False).manifest
    assert told["format_version"] == 1
    assert manifest.format_version == FORMAT_VERSION
    assert manifest.vocab_size == told["vocab_size"] == 256
    assert (list(manifest.eos_token_ids), manifest.logits) == (told["eos_token_ids"], told["logits"])
    assert [state.kind for state in manifest.states] == [state["leaf"] for state in told["states"]]
    assert [state.past_name for state in manifest.states] == [x["name"] for x in told["inputs"] if x["role"] == "past"]
    same = ("architecture", "family", "dtype", "target", "opset", "capacity", "files", "ops", "inputs", "outputs")
    now = json.loads(msgspec.json.encode(manifest))
    assert {name: now[name] for name in same} == {name: told[name] for name in same}


def test_a_bundle_of_version_1_is_written_again_as_version_2(old):
    manifest = open_bundle(old, check_files=False).manifest
    write_manifest(old, manifest)
    assert json.loads((old / MANIFEST).read_text())["language_model"]["vocab_size"] == 256
    assert open_bundle(old, check_files=False).manifest == manifest


@pytest.mark.parametrize("lost", ["vocab_size", "eos_token_ids", "logits", "states", "inputs"])
def test_a_damaged_bundle_of_version_1_is_told_apart(old, lost):
    told = json.loads(VERSION_1.read_text())
    del told[lost]
    (old / MANIFEST).write_text(json.dumps(told))
    with pytest.raises(BundleError, match=f"is damaged: .*{lost}.*; export the model again"):
        open_bundle(old, check_files=False)


def test_the_kind_of_a_state_has_one_name_in_a_version(old, folder):
    told = json.loads((folder / MANIFEST).read_text())
    told["states"][0]["leaf"] = told["states"][0].pop("kind")
    (folder / MANIFEST).write_text(json.dumps(told))
    with pytest.raises(BundleError, match="is damaged"):
        open_bundle(folder)


def any_module():
    """Of a graph without tokens, whose state has names of its own."""
    named = ("batch", 4)
    return manifest(
        architecture="Filter",
        family=None,
        language_model=None,
        capacity=None,
        inputs=(
            TensorSpec(name="x", dtype="float32", shape=("batch", "frames", 4), role="input"),
            TensorSpec(name="h", dtype="float32", shape=named, role="past"),
        ),
        outputs=(
            TensorSpec(name="y", dtype="float32", shape=("batch", "frames", 4), role="output"),
            TensorSpec(name="h_next", dtype="float32", shape=named, role="present"),
        ),
        states=(StateSpec(layer=0, kind="state", shape=named, dtype="float32", past="h", present="h_next"),),
    )


def test_a_graph_without_tokens_has_a_bundle(folder):
    save_graph(folder / MODEL, any_module())
    listed = msgspec.structs.replace(any_module(), files={MODEL: sha256(folder / MODEL)})
    write_manifest(folder, listed)
    read = open_bundle(folder).manifest
    assert read == listed
    assert "language_model" not in json.loads((folder / MANIFEST).read_text())
    assert (read.states[0].past_name, read.states[0].present_name) == ("h", "h_next")
    assert read.states[0].sizes(2, 0) == (2, 4)


@pytest.mark.parametrize("name", ["vocab_size", "eos_token_ids", "logits", "text"])
def test_what_needs_a_vocabulary_refuses_a_bundle_without_one(name):
    with pytest.raises(UserError, match=r"^the bundle of Filter has no vocabulary: it is not a language model's$"):
        getattr(any_module(), name)


def test_an_axis_that_nobody_gives_a_size_is_named():
    state = StateSpec(layer=0, kind="state", shape=("frames", 4), dtype="float32", past="h", present="h_next")
    with pytest.raises(UserError, match=r"^state h: nothing says how large its axis frames is$"):
        state.sizes(1, 1)


@pytest.mark.parametrize("name", [MODEL, "reference.safetensors"])
def test_the_graph_and_what_judges_it_must_be_listed(folder, name):
    (folder / "reference.safetensors").write_bytes(b"answers")
    hashes = {each: sha256(folder / each) for each in (MODEL, "reference.safetensors")}
    write_manifest(folder, manifest(files=hashes))
    assert open_bundle(folder)
    del hashes[name]
    write_manifest(folder, manifest(files=hashes))
    with pytest.raises(BundleError, match=f"does not name {name} as a file of the bundle, so that its sha256"):
        open_bundle(folder)


@pytest.mark.parametrize("name", [MANIFEST, MODEL])
@pytest.mark.parametrize("kind", ["pipe", "device", "secret"])
def test_only_files_of_the_bundle_are_read(folder, name, kind):
    (folder / name).unlink()
    if kind == "pipe":
        os.mkfifo(folder / name)
    else:
        (folder / name).symlink_to({"device": "/dev/zero", "secret": "../secret"}[kind])
    with pytest.raises(BundleError, match=r"regular file|leads out of its folder|lies outside the bundle"):
        open_bundle(folder)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("*/_ORT_MEM_ADDR_/*", r"has weights in '\*/_ORT_MEM_ADDR_/\*', outside its folder"),
        ("within/secret", r"file 'within/secret' lies outside the bundle"),
    ],
)
def test_weights_that_are_listed_and_lie_elsewhere_are_refused(folder, name, told):
    """ONNX Runtime reads the first as an address of its memory, and follows the second."""
    (folder.parent / "secret").write_bytes(b"12345678")
    (folder / "within").symlink_to("..")
    (folder / "*" / "_ORT_MEM_ADDR_").mkdir(parents=True)
    (folder / "*" / "_ORT_MEM_ADDR_" / "*").write_bytes(b"12345678")
    save_graph(folder / MODEL, manifest(), lying_in(name))
    write_manifest(folder, manifest(files={each: sha256(folder / each) for each in (MODEL, name)}))
    with pytest.raises(UserError, match=told):
        open_bundle(folder)
    with pytest.raises(UserError, match="outside its folder"):
        open_bundle(folder, check_files=False).check_graph()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda m: m["inputs"].extend(m["inputs"] * 10_000), "length <= 16384"),
        (lambda m: m["states"][0].update(shape=["batch", 2**48, "max_len", 4]), "<= 2147483647"),
        (lambda m: m["states"][0].update(shape=["batch", 2**30, "max_len", 2**30]), "bytes for one sequence; at most"),
        (lambda m: m["states"][0].update(shape=["batch", *[2] * 71]), "length <= 16"),
        (lambda m: m["language_model"].update(vocab_size=2**40), "<= 2147483647"),
        (lambda m: m["language_model"].update(eos_token_ids=[-1, "x"]), ">= 0"),
        (lambda m: m.update(capacity=10**18), "<= 2147483647"),
        (lambda m: m["inputs"][0].update(dtype="[/x]"), "Invalid enum value"),
        (lambda m: m.update(architecture=["x" * 100] * 100_000), "expected at most 4,194,304"),
        (lambda m: m.update(dtype="float8"), "Invalid enum value"),
    ],
)
def test_counts_and_sizes_that_no_model_has(folder, change, told):
    made = json.loads((folder / MANIFEST).read_text())
    change(made)
    (folder / MANIFEST).write_text(json.dumps(made))
    with pytest.raises(BundleError, match=told):
        open_bundle(folder)


def test_brackets_in_brackets_are_no_manifest(folder):
    (folder / MANIFEST).write_text("[" * 200_000)
    with pytest.raises(BundleError, match="is damaged"):
        open_bundle(folder)


def test_a_name_without_end_is_no_destination(tmp_path):
    with pytest.raises(BundleError, match=r"File name too long.*choose another `output`"):
        check_destination(tmp_path / ("n" * 300), force=False)
