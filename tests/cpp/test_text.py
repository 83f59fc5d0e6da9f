"""Text in and out in C++ is what Python makes of it, whatever bytes a model gives."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

import seqexport
from seqexport.plugins.reading import sha256
from seqexport.runtimes.bundle import MANIFEST, Bundle
from tests.conftest import Exported
from tests.cpp.embedded import Embedding, Installed

EVEN = {"temperature": 1e6}
"""Any byte is as likely as any other."""

TEXTS = ["The state of a", "é€🙂", "a\0b", "\N{REPLACEMENT CHARACTER}"]


def even(seed: int) -> tuple[float, int, float, int]:
    return EVEN["temperature"], 0, 1.0, seed


def text_of(answer: str) -> str:
    """Each piece is whole characters."""
    return "".join(bytes.fromhex(piece).decode("utf-8") for piece in answer.split())


def test_random_bytes_stream_as_in_python(package: Installed, mamba: Bundle, tmp_path: Path) -> None:
    """Enough of them that every kind of character, and of what is none, comes up; sessions stop amid some."""
    read = 0
    with seqexport.load(mamba.path, threads=1) as model, Embedding(package.embedding, mamba.path) as program:
        session = model.session()
        for seed in range(40):
            session.reset()
            text = "".join(model.resume(session, "x", max_new_tokens=60 + seed, seed=seed, **EVEN))
            session.save(tmp_path / "saved")
            rest = "".join(model.resume(session, max_new_tokens=20))
            program("open", 1, 0)
            program("say", b"x".hex())
            assert text_of(program("tell", 60 + seed, 0, *even(seed))) == text
            assert text_of(program("tell", 20, 0)) == rest
            program("restore", tmp_path / "saved", 0)
            assert text_of(program("tell", 20, 0)) == rest
            read += session.position
    assert read > 2000


def test_text_is_read_as_in_python(package: Installed, mamba: Bundle, tmp_path: Path) -> None:
    rng = random.Random(0)
    texts = [text.encode() for text in TEXTS] + [rng.randbytes(9) for _ in range(80)]
    with seqexport.load(mamba.path) as model, Embedding(package.embedding, mamba.path) as program:
        for text in texts:
            expected = model.tokenizer.encode(text.decode("utf-8", "replace"))
            program("open", 1, 0)
            assert program("say", text.hex()) == str(len(expected))
            program("save", tmp_path / "saved")
            assert load_file(tmp_path / "saved")["recent"][0, -len(expected) :].tolist() == expected


def test_told_to_stop(package: Installed, mamba: Bundle) -> None:
    with Embedding(package.embedding, mamba.path) as program:
        program("open", 1, 0)
        assert program("say") == "error 1: no tokens: expected at least one; the prompt is empty"
        program("say", b"The ".hex())
        assert len(program("tell", 9, 3).split()) == 3
        assert program("say", b"!".hex()) == str(4 + 3 + 1)
        program("open", 2, 0)
        program("prefill", 65, 66)
        assert program("tell", 1, 0) == "error 1: a session of 2 sequences: expected one, whose text goes on"


def test_the_tool_prints_text(package: Installed, mamba: Bundle, tmp_path: Path) -> None:
    drawn = {"temperature": 0.9, "top_k": 50, "seed": 5}
    with seqexport.load(mamba.path, threads=1) as model:
        session = model.session()
        text = "def " + "".join(model.resume(session, "def ", max_new_tokens=12, **drawn))
        rest = "".join(model.resume(session, max_new_tokens=12))
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in drawn.items()]
    limit = ("--threads=1", "--max-new-tokens=12")
    first = package.run(mamba.path, "--prompt=def ", *flags, *limit, "--save", tmp_path / "saved")
    assert (first.code, first.out) == (0, text + "\n")
    assert package.run(mamba.path, "--resume", tmp_path / "saved", "--text", *limit).out == rest + "\n"
    assert package.run(mamba.path, "--tokens=1", "--prompt=x").refusal == "--tokens and --prompt: give one of them"


def merged() -> Tokenizer:
    letters = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    return Tokenizer(models.BPE(letters | {"ab": 256}, [("a", "b")]))


def changed(change: Callable[[Tokenizer], object]) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        tokenizer = Tokenizer.from_file(str(file))
        change(tokenizer)
        tokenizer.save(str(file))

    return write


OTHERS: dict[str, Callable[[Path], None]] = {
    "merges": changed(lambda t: setattr(t, "model", merged().model)),
    "normalizer": changed(lambda t: setattr(t, "normalizer", normalizers.Lowercase())),
    "space": changed(lambda t: setattr(t, "pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=True))),
    "added": changed(lambda t: t.add_special_tokens([AddedToken("<|end|>")])),
    "decoder": changed(lambda t: setattr(t, "decoder", None)),
    "model": changed(lambda t: setattr(t, "model", models.WordLevel({"a": 0}, unk_token="a"))),
}


@pytest.fixture
def copy(exported: Exported, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported("preset:mamba", target="ort", logits="last").path, tmp_path / "bundle"))


def sealed(folder: Path) -> Path:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"]["tokenizer.json"] = sha256(folder / "tokenizer.json")
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize("name", OTHERS)
def test_another_tokenizer_is_refused_with_what_to_do(package: Installed, copy: Path, name: str) -> None:
    OTHERS[name](copy / "tokenizer.json")
    refusal = package.run(sealed(copy), "--prompt=x").refusal
    assert refusal.startswith(
        f"{copy}/tokenizer.json: no tokenizer of bytes, and C++ has no other; give and take tokens"
    )
    assert refusal.endswith(f"seqexport tokens {copy}")
    assert package.run(copy, "--tokens=65", "--max-new-tokens=1").code == 0


def test_no_tokenizer_or_a_damaged_one(package: Installed, copy: Path) -> None:
    (copy / "tokenizer.json").write_text("{")
    assert f"{copy}/tokenizer.json: sha256" in package.run(copy, "--prompt=x").refusal
    assert f"{copy}/tokenizer.json cannot be read: " in package.run(sealed(copy), "--prompt=x").refusal
    manifest = json.loads((copy / MANIFEST).read_text())
    del manifest["files"]["tokenizer.json"]
    (copy / MANIFEST).write_text(json.dumps(manifest))
    assert f"{copy}: has no tokenizer.json; give and take tokens" in package.run(copy, "--text", "--tokens=1").refusal
