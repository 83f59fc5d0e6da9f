"""A checkpoint with its tokenizer in older files: converted and checked, or the export says that it was not."""

from __future__ import annotations

import importlib.util
import json
import shutil
import socket
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

import pytest
from tokenizers import Tokenizer, pre_tokenizers

from seqexport.exporter import tokenizer as module
from seqexport.exporter.pipeline import ExportOptions, export
from seqexport.exporter.tokenizer import TOKENIZER, make_tokenizer
from seqexport.runtimes.quiet import quiet
from seqexport.runtimes.tokenizer import BundleTokenizer
from tests.conftest import Saved, leave_out

LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = ["Ġ m", "o d", "e l", "od el", "Ġm odel"]
VOCABULARY = {name: number for number, name in enumerate([*LETTERS, *(merge.replace(" ", "") for merge in MERGES)])}
TEXT = "a model, é🙂 and 10 models"


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> NoReturn:
        raise AssertionError("a tokenizer is made of what is here")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def older(folder: Path, model_type: str = "mamba", **config: Any) -> Path:
    """The byte-level BPE above as transformers saved it before tokenizer.json."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    (folder / "vocab.json").write_text(json.dumps(VOCABULARY))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES]), encoding="utf-8")
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("model_type", ["mamba", "gpt2", "qwen2"])
@pytest.mark.parametrize("config", [{}, {"tokenizer_class": "GPT2Tokenizer"}], ids=["no class", "GPT2Tokenizer"])
def test_vocab_and_merges_become_a_tokenizer(tmp_path: Path, model_type: str, config: dict[str, str]) -> None:
    made = make_tokenizer(older(tmp_path, model_type, **config))
    assert made is not None and made.content is not None
    assert made.said.startswith("tokenizer.json is made of merges.txt and vocab.json, by transformers' ")
    tokenizer = Tokenizer.from_str(made.content)
    tokens = tokenizer.encode("a model", add_special_tokens=False).tokens
    assert tokens == ["a", "Ġmodel"]
    ids = tokenizer.encode(TEXT, add_special_tokens=False).ids
    assert tokenizer.decode(ids) == TEXT
    assert [VOCABULARY[token] for token in tokens] == tokenizer.encode("a model", add_special_tokens=False).ids


def test_an_export_brings_it_and_text_comes_of_it(checkpoint: Saved, tmp_path: Path, traced_once: None) -> None:
    source = Path(shutil.copytree(checkpoint("mamba"), tmp_path / "source"))
    config = (source / "config.json").read_text()
    older(source)
    (source / "config.json").write_text(config)
    said: list[str] = []
    options = ExportOptions(model=str(source), target="portable")
    with quiet():
        bundle = export(options, tmp_path / "bundle", lambda stage: nullcontext(), said.append)
    assert TOKENIZER in bundle.manifest.files
    assert any(line.startswith("tokenizer.json is made of ") for line in said)
    tokenizer = BundleTokenizer(bundle)
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT


def test_an_export_without_a_tokenizer_says_so(checkpoint: Saved, tmp_path: Path, traced_once: None) -> None:
    said: list[str] = []
    options = ExportOptions(model=str(checkpoint("mamba")), target="portable")
    with quiet():
        bundle = export(options, tmp_path / "bundle", lambda stage: nullcontext(), said.append)
    assert bundle.tokenizer is None
    assert any(line.startswith("the checkpoint has no tokenizer: the bundle will have no tokenizer") for line in said)


def test_a_tokenizer_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    (older(tmp_path) / TOKENIZER).write_text("{}")
    assert make_tokenizer(tmp_path) is None


def damaged(folder: Path) -> None:
    (folder / "vocab.json").write_text("{")


def one_file_alone(folder: Path) -> None:
    (folder / "merges.txt").unlink()


def unknown_class(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "NoSuchTokenizer"}))


def letters_alone(folder: Path) -> None:
    """A vocabulary without spaces: what transformers makes of it loses them, but gives other letters back as well."""
    (folder / "vocab.json").write_text(json.dumps({letter: i for i, letter in enumerate("abc")}))
    (folder / "merges.txt").write_text("#version: 0.2\n")


def brings_code(folder: Path) -> None:
    auto_map = {"AutoTokenizer": ["its_code.Tokenizer", None]}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Tokenizer", "auto_map": auto_map}))
    (folder / "its_code.py").write_text("raise SystemExit('the code of the checkpoint ran')")


@pytest.mark.parametrize("change", [damaged, one_file_alone, unknown_class, letters_alone, brings_code])
def test_what_cannot_be_converted_is_said(tmp_path: Path, change: Any) -> None:
    change(older(tmp_path))
    made = make_tokenizer(tmp_path)
    assert made is not None and made.content is None
    assert "\n" not in made.said
    assert "no tokenizer.json can be made of " in made.said
    assert made.said.endswith(module.WITHOUT)


@pytest.mark.parametrize("name", ["tokenizer.model", "qwen.tiktoken"])
def test_a_package_that_is_missing_is_named(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / name).write_bytes(b"")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    made = make_tokenizer(tmp_path)
    assert made is not None and made.content is None
    package = "sentencepiece protobuf" if name == "tokenizer.model" else "tiktoken"
    assert f"{name} without a tokenizer.json, which needs pip install {package} to be made" in made.said


@pytest.fixture
def sentencepiece_file(tmp_path: Path) -> Path:
    """A model trained as Llama 2's was, beside a config."""
    try:
        from sentencepiece import SentencePieceTrainer
    except ImportError:
        leave_out("tests of tokenizer.model left out: sentencepiece is not installed")
    heldout = Path(module.__file__).parent / "presets" / "heldout.txt"
    (tmp_path / "text").write_text(heldout.read_text(encoding="utf-8")[:60_000], encoding="utf-8")
    SentencePieceTrainer.train(
        input=str(tmp_path / "text"),
        model_prefix=str(tmp_path / "tokenizer"),
        vocab_size=500,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=0.99,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        split_digits=True,
        minloglevel=2,
    )
    return tmp_path / "tokenizer.model"


@pytest.mark.parametrize("model_type", ["llama", "mistral", "mamba", "gemma"])
def test_a_sentencepiece_model_gives_sentencepiece_s_tokens(sentencepiece_file: Path, model_type: str) -> None:
    """transformers' class for Mamba or Gemma loses the spaces or the first one, so Llama's is taken."""
    from sentencepiece import SentencePieceProcessor

    (sentencepiece_file.parent / "config.json").write_text(json.dumps({"model_type": model_type}))
    made = make_tokenizer(sentencepiece_file.parent)
    assert made is not None and made.content is not None, made
    tokenizer = Tokenizer.from_str(made.content)
    expected = SentencePieceProcessor(model_file=str(sentencepiece_file)).encode(TEXT)
    assert tokenizer.encode(TEXT, add_special_tokens=False).ids == expected
    assert tokenizer.decode(expected) == TEXT
