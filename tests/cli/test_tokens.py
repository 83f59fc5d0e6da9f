"""``seqexport tokens``: text to tokens for C and C++, and back as they come."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from seqexport.plugins.reading import sha256
from seqexport.runtimes.bundle import MANIFEST, MODEL
from tests.cli.conftest import Run

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"


@pytest.fixture
def spoken(shipped: Path, tmp_path: Path) -> Path:
    """A bundle whose tokenizer has merges and begins a text with a token of its own, with a chat template."""
    folder = Path(shutil.copytree(shipped, tmp_path / "bundle"))
    letters = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    names = {name: number for number, name in enumerate([*list(letters)[:250], "ab", "<s>"])}
    tokenizer = Tokenizer(models.BPE(names, [("a", "b")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 251)])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    manifest = json.loads((folder / MANIFEST).read_text())
    for name in ("tokenizer.json", "tokenizer_config.json"):
        manifest["files"][name] = sha256(folder / name)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


def test_tokens_of_a_text(run: Run, spoken: Path) -> None:
    plain = Tokenizer.from_file(str(spoken / "tokenizer.json"))

    def expected(text: str, begins: bool) -> str:
        return ",".join(map(str, plain.encode(text, add_special_tokens=begins).ids)) + "\n"

    assert run("tokens", spoken, "--prompt", "abc").out == expected("abc", True)
    assert run("tokens", spoken, "--prompt", "abc").out.startswith("251,250,")
    assert run("tokens", spoken, "--prompt", "abc", "--no-special-tokens").out == expected("abc", False)
    assert run("tokens", spoken, "--prompt", "abc", "--chat").out == expected("<user>abc<assistant>", False)


def decoded(bundle: Path, given: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", "seqexport", "tokens", bundle, "--decode"], input=given,
                          capture_output=True)  # fmt: skip


def test_text_of_tokens(run: Run, shipped: Path) -> None:
    text = "é, a state 🙂"
    tokens = run("tokens", shipped, "--prompt", text).out.encode()
    for given in (tokens, tokens.replace(b",", b" "), b"\n ," + tokens.replace(b",", b"\n\n").strip()):
        assert decoded(shipped, given).stdout.decode() == text + "\n"
    assert decoded(shipped, b"").stdout == b"\n"


def test_text_comes_as_its_tokens_do(shipped: Path) -> None:
    process = subprocess.Popen([sys.executable, "-m", "seqexport", "tokens", shipped, "--decode"],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    assert process.stdin and process.stdout
    for given, shown in ((b"72 1", b"H"), (b"05 226 130 ", b"i"), (b"172\n", "€".encode())):
        process.stdin.write(given)
        process.stdin.flush()
        assert os.read(process.stdout.fileno(), 100) == shown
    assert process.communicate()[0] == b"\n"


@pytest.mark.parametrize("word", ["x", "-1", "256", "1.0", "9" * 5000, "é"])
def test_what_is_no_token(shipped: Path, word: str) -> None:
    done = decoded(shipped, f"72 {word} 105".encode())
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1
    assert done.stderr.decode().startswith("error: --decode: token '")
    assert done.stderr.decode().endswith("': expected 0 to 255\n")


def test_what_it_refuses(run: Run, shipped: Path, spoken: Path) -> None:
    for words in ([], ["--prompt", "x", "--decode"]):
        assert run("tokens", shipped, *words).refusal == "--prompt or --decode: give one of them"
    assert "has no chat template" in run("tokens", shipped, "--prompt", "x", "--chat").refusal
    (spoken / f"{MODEL}.data").unlink()  # which it does not read
    assert run("tokens", spoken, "--prompt", "x").code == 0
    (spoken / "tokenizer.json").write_text("{}")
    assert "tokenizer.json: sha256" in run("tokens", spoken, "--prompt", "x").refusal


def test_no_tokenizer(run: Run, shipped: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(shipped, tmp_path / "bundle"))
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["files"]["tokenizer.json"]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    assert "has no tokenizer.json" in run("tokens", folder, "--prompt", "x").refusal
