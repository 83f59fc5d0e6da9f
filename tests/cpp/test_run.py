"""What seqexport-run refuses: one line on stderr, exit code 2, and the file that was there stays."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

from seqexport.plugins.reading import sha256
from seqexport.runtimes.bundle import MANIFEST, MODEL, Bundle, write_manifest
from seqexport.runtimes.ort.runner import OrtRunner
from seqexport.runtimes.session_file import sealed
from tests.conftest import Exported
from tests.cpp.embedded import Embedding, Installed
from tests.cpp.test_sessions import PROMPT, SAMPLED, flags
from tests.runtimes.test_session_files import rewrite


@pytest.fixture
def saved(mamba: Bundle, tmp_path: Path) -> Path:
    file = tmp_path / "in" / "saved.safetensors"
    with OrtRunner(mamba, threads=1) as runner, runner.session() as session:
        session.prefill(np.array([PROMPT]))
        list(session.generate(3, SAMPLED))
        session.save(file)
    return file


def test_help_and_version(package: Installed) -> None:
    assert package.run("--version").out.startswith("seqexport-run 0.1.0")
    shown = package.run("--help")
    assert shown.code == 0 and "Examples:" in shown.out and "--resume=FILE" in shown.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "no BUNDLE is given; seqexport-run --help has examples"),
        (["x"], "nothing to go on after: give --prompt=TEXT, --tokens=IDS, or --resume=FILE"),
        (["x", "y"], "y: one BUNDLE only, and x is given"),
        (["x", "--tokens=1,,2"], "--tokens '': expected a whole number of at least 0"),
        (["x", "--tokens=1", "--seed=-1"], "--seed '-1': expected 0 to 2^64 - 1"),
        (["x", "--tokens=1", "--seed=18446744073709551616"], "expected 0 to 2^64 - 1"),
        (["x", "--tokens=1", "--top-p=much"], "--top-p 'much': expected a number"),
        (["x", "--tokens=1", "--nothing"], "unknown flag --nothing; seqexport-run --help lists them"),
        (["x", "--tokens=1"], "x is not a bundle: it has no seqexport.json"),
    ],
    ids=" ".join,
)
def test_flags(package: Installed, words: list[str], told: str) -> None:
    assert told in package.run(*words).refusal


def test_bundles_that_do_not_open(package: Installed, exported: Exported, mamba: Bundle, tmp_path: Path) -> None:
    copy = shutil.copytree(mamba.path, tmp_path / "copy")
    weights = copy / f"{MODEL}.data"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    assert f"{weights}: sha256" in package.run(copy, *flags(PROMPT, None)).refusal
    whole = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(json.dumps(whole | {"format_version": 3}))
    assert "format version 3, this seqexport reads 1 to 2; upgrade" in package.run(copy, *flags(PROMPT, None)).refusal
    engine = exported("preset:mamba", target="tensorrt").path
    assert "needs the library of our ops" in package.run(engine, *flags(PROMPT, None)).refusal


@pytest.mark.parametrize("name", ["../secret", "within/secret", "linked.data", "*/_ORT_MEM_ADDR_/*"])
def test_weights_that_are_listed_and_lie_elsewhere(
    package: Installed, mamba: Bundle, name: str, tmp_path: Path
) -> None:
    """With the right sha256; ONNX Runtime would follow the links, and read the last as an address of its memory."""
    copy = shutil.copytree(mamba.path, tmp_path / "copy")
    (copy / f"{MODEL}.data").rename(tmp_path / "secret")
    (copy / "within").symlink_to("..")
    (copy / "linked.data").symlink_to("../secret")
    (copy / "*" / "_ORT_MEM_ADDR_").mkdir(parents=True)
    shutil.copy(tmp_path / "secret", copy / "*" / "_ORT_MEM_ADDR_" / "*")
    model = onnx.load(copy / MODEL, load_external_data=False)
    for entry in (entry for tensor in model.graph.initializer for entry in tensor.external_data):
        entry.value = name if entry.key == "location" else entry.value
    (copy / MODEL).write_bytes(model.SerializeToString())
    files = {each: sha256(copy / each) for each in (MODEL, name)}
    write_manifest(copy, msgspec.structs.replace(mamba.manifest, files=files))
    assert f"file '{name}' lies outside the bundle" in package.run(copy, *flags(PROMPT, None)).refusal


@pytest.mark.parametrize(
    "change",
    [
        {"format_version": 2.5},
        {"opset": 1e300},
        {"capacity": 0},
        {"capacity": None},
        {"language_model": {"vocab_size": -1, "eos_token_ids": [], "logits": "last"}},
        {"language_model": {"vocab_size": 2**40, "eos_token_ids": [], "logits": "last"}},
        {"language_model": {"vocab_size": 9, "eos_token_ids": [1e99], "logits": "last"}},
        {"ops": {"SelectiveScan": 1.5}},
    ],
    ids=str,
)
def test_numbers_that_are_none(
    package: Installed, exported: Exported, change: dict[str, object], tmp_path: Path
) -> None:
    """Found by fuzzing: a size is a whole number that a bundle can have, and caches have a capacity."""
    whole = exported("preset:transformer", target="ort", dtype="float32", logits="last").path
    copy = shutil.copytree(whole, tmp_path / "copy")
    (copy / MANIFEST).write_text(json.dumps(json.loads((copy / MANIFEST).read_text()) | change))
    assert f"{copy / MANIFEST} is damaged: " in package.run(copy, *flags(PROMPT, None)).refusal


def test_bytes_that_are_no_text_stay_out_of_messages(package: Installed, mamba: Bundle, tmp_path: Path) -> None:
    copy = shutil.copytree(mamba.path, tmp_path / "copy")
    (copy / MANIFEST).write_bytes(b'{"a": \xff\x7f\n}')
    assert "is damaged: no JSON from byte 7 on" in package.run(copy, *flags(PROMPT, None)).refusal


def test_a_sequence_is_no_longer_than_can_be_counted(package: Installed, mamba: Bundle, saved: Path) -> None:
    rewrite(saved, {"lengths": np.array([2**31 - 2], np.int32)})
    with Embedding(package.embedding, mamba.path) as program:
        assert program("restore", saved, 0) == str(2**31 - 2)
        assert len(program.tokens("generate", 9, 0)) == 1
        told = f"error 1: a sequence of {2**31} tokens: a session counts to {2**31 - 1}; begin another, or reset it"
        assert program("prefill", 65) == told
        assert program("reset") == "0"


def test_sessions_that_do_not_fit(package: Installed, exported: Exported, mamba: Bundle, saved: Path) -> None:
    def refusal(bundle: Bundle = mamba) -> str:
        return package.run(bundle.path, "--resume", saved).refusal

    assert f"{saved}: saved from another model than" in refusal(exported("untied", target="ort", logits="last"))
    half = exported("preset:mamba", target="ort", dtype="float16", logits="last")
    assert f"{saved}: saved in float32, and {half.path} is float16; open a bundle in float32" in refusal(half)
    rewrite(saved, format_version="2\n3")
    assert "format version 2\ufffd3, this seqexport reads 1; upgrade" in refusal()
    rewrite(saved, format_version="2")
    assert "format version 2, this seqexport reads 1; upgrade" in refusal()
    rewrite(saved, format="another")
    assert "not a session" in refusal()
    rewrite(saved, format="seqexport session", format_version="1", sampling='{"temperature": -1}')
    assert "damaged or cut short" in refusal()
    saved.unlink()
    assert "cannot be read (No such file or directory)" in refusal()


@pytest.mark.parametrize(
    "change",
    [
        {"logits": None},
        {"more": np.zeros(1)},
        {"recent": np.zeros((1, 32), np.int32)},
        {"generators": np.zeros(2, np.uint64)},
        {"lengths": np.array([-1], np.int32)},
        {"lengths": np.zeros(0, np.int32)},
        {"lengths": np.zeros(7, np.int64)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_tensors(package: Installed, mamba: Bundle, saved: Path, change: dict[str, np.ndarray]) -> None:
    rewrite(saved, change)
    assert f"{saved}: damaged or cut short (" in package.run(mamba.path, "--resume", saved).refusal


def test_damaged_and_truncated_sessions(package: Installed, mamba: Bundle, saved: Path) -> None:
    whole = saved.read_bytes()
    for place in (0, 3, 9, 120, len(whole) // 2, len(whole) - 1):
        for spoilt in (whole[:place], whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]):
            saved.write_bytes(spoilt)
            assert str(saved) in package.run(mamba.path, "--resume", saved).refusal
    saved.write_bytes(whole)
    os.truncate(saved, 1 << 40)
    told = f"{1 << 40} bytes; expected at most {len(whole)}"
    assert told in package.run(mamba.path, "--resume", saved).refusal


def test_any_header_is_refused_or_read(package: Installed, mamba: Bundle, saved: Path) -> None:
    """Spoilt at random and sealed again, so that what reads it goes as far as it can."""
    whole, rng = saved.read_bytes(), random.Random(0)
    size = int.from_bytes(whole[:8], "little")
    with Embedding(package.embedding, mamba.path) as program:
        for _ in range(600):
            header = bytearray(whole[8 : 8 + size])
            for _ in range(rng.randint(1, 3)):
                at = rng.randrange(len(header))
                put = bytes(rng.choice(b'0123456789,:[]{}"-.eFIU\\\xff') for _ in range(rng.randint(0, 4)))
                header[at : at + rng.randint(0, 4)] = put
            told = rng.choice([len(header)] * 9 + [0, 2**63, len(header) + 8])
            saved.write_bytes(sealed(told.to_bytes(8, "little") + header + whole[8 + size :]))
            answer = program("restore", saved, 0)
            assert answer.startswith(f"error 3: {saved}: ") or answer == "7"


def test_a_full_disk_leaves_the_session_that_was_there(package: Installed, mamba: Bundle, saved: Path) -> None:
    before, limits = saved.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        done = package.run(mamba.path, "--resume", saved, "--max-new-tokens=2", "--save", saved)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert done.code == 2 and f"{saved}: cannot be written (File too large); nothing was left behind" in done.err
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]
