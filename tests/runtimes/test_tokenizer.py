"""Streamed text is what a decoder makes of all tokens; what a training run left in tokenizer.json changes nothing."""

from __future__ import annotations

import base64
import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from seqexport.plugins.errors import UserError
from seqexport.runtimes.text import read_rows
from seqexport.runtimes.tokenizer import CONTEXT, TextStream, decode, encode
from seqexport.runtimes.tokenizer_file import load_tokenizer
from tests.runtimes.tiny import bundle_of, make

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
WORDS = ["▁", "▁hello", "▁world", "a", "é", "▁🙂", "�", "."]
SPECIAL = ["<unk>", "<s>"]


def numbered(*names: str) -> dict[str, int]:
    return {name: number for number, name in enumerate(names)}


def byte_fallback() -> Tokenizer:
    """As Llama 2's, Mistral's and Phi-3's."""
    tokenizer = Tokenizer(models.BPE(numbered(*SPECIAL, *BYTES, *WORDS), [], unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def byte_level() -> Tokenizer:
    """As GPT-2's, Llama 3's and Mamba's."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(numbered(*letters, "Ġhello", "🙂"), []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram([(name, -1.0) for name in (*SPECIAL, *WORDS)], 0, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def word_piece() -> Tokenizer:
    names = ("[UNK]", "hello", "##s", "##", "'", "t", "n't", ".", "do", "not", "�")
    tokenizer = Tokenizer(models.WordPiece(numbered(*names), unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def with_suffix() -> Tokenizer:
    """As OpenAI's first GPT."""
    tokenizer = Tokenizer(models.BPE(numbered("<unk>", "a", "b</w>", "hello</w>", "."), [], unk_token="<unk>"))
    tokenizer.decoder = decoders.BPEDecoder()
    return tokenizer


def replaces_at_the_end() -> Tokenizer:
    tokenizer = byte_fallback()
    replace = decoders.Replace(Regex(r" ([.a])"), "-")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), replace])
    return tokenizer


def without_decoder() -> Tokenizer:
    return Tokenizer(models.WordLevel(numbered("<unk>", "a", "b"), "<unk>"))


MAKERS = [byte_fallback, byte_level, unigram, word_piece, with_suffix, replaces_at_the_end, without_decoder]


def streamed(tokenizer: Tokenizer, tokens: list[int], after: Sequence[int] = ()) -> list[str]:
    stream = TextStream(tokenizer, after)
    return [*map(stream.push, tokens), stream.finish()]


@pytest.mark.parametrize("make_tokenizer", MAKERS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(data=st.data())
def test_streamed_text_is_the_whole_decode(make_tokenizer: Callable[[], Tokenizer], data: st.DataObject) -> None:
    tokenizer = make_tokenizer()
    size = tokenizer.get_vocab_size()
    token = st.integers(0, size + 1)  # beyond it: a model's vocabulary is padded
    runs = st.lists(st.tuples(token, st.integers(1, 5)), max_size=60)
    tokens = [token for token, times in data.draw(runs) for _ in range(times)]
    assert "".join(streamed(tokenizer, tokens)) == decode(tokenizer, tokens)


@pytest.mark.parametrize("seed", range(8))
def test_byte_tokens_that_fit_no_character_are_streamed(seed: int) -> None:
    """Llama's tokenizer under a high temperature; tokenizers' own DecodeStream raises on it."""
    import numpy as np

    tokenizer = byte_fallback()
    tokens = np.random.default_rng(seed).integers(0, tokenizer.get_vocab_size(), 500).tolist()
    assert "".join(streamed(tokenizer, tokens)) == decode(tokenizer, tokens)


@pytest.mark.parametrize("make_tokenizer", MAKERS)
@pytest.mark.parametrize("prompt", ["hello", "hello world", "é", "a�"])
def test_streamed_text_goes_on_after_a_prompt(make_tokenizer: Callable[[], Tokenizer], prompt: str) -> None:
    tokenizer = make_tokenizer()
    after = tokenizer.encode(prompt).ids
    tokens = [token for token in range(tokenizer.get_vocab_size()) for _ in range(2)]
    before, whole = decode(tokenizer, after), decode(tokenizer, [*after, *tokens])
    assert whole.startswith(before)
    assert "".join(streamed(tokenizer, tokens, after)) == whole[len(before) :]


def test_a_word_keeps_its_space_after_a_prompt() -> None:
    tokenizer = byte_fallback()
    world = tokenizer.token_to_id("▁world")
    after = tokenizer.encode("hello").ids
    assert "".join(streamed(tokenizer, [world], after)) == " world"
    assert "".join(streamed(tokenizer, [world])) == "world"


def test_bytes_after_a_prompt_leave_its_last_character_alone() -> None:
    tokenizer = byte_fallback()
    tokenizer.model = models.BPE(numbered(*SPECIAL, *BYTES, "▁"), [], unk_token="<unk>", byte_fallback=True)
    after = tokenizer.encode("é").ids
    assert [tokenizer.id_to_token(token) for token in after] == ["▁", "<0xC3>", "<0xA9>"]
    invalid = tokenizer.token_to_id("<0xFF>")
    assert "".join(streamed(tokenizer, [invalid], after)) == "�"


def test_text_comes_as_soon_as_it_is_certain() -> None:
    letters = byte_level()
    assert streamed(letters, letters.encode("aé🙂").ids) == ["a", "", "é", "", "", "", "🙂", ""]
    fallback = byte_fallback()
    ids = [fallback.token_to_id(name) for name in ("▁hello", "<0xC3>", "<0xA9>", "a")]
    assert streamed(fallback, ids) == ["hello", "", "", "éa", ""]


@pytest.mark.parametrize("make_tokenizer", [byte_fallback, byte_level, unigram, word_piece])
def test_a_long_text_is_decoded_in_short_windows(make_tokenizer: Callable[[], Tokenizer]) -> None:
    tokenizer = make_tokenizer()
    stream, most = TextStream(tokenizer), 0
    plain = [token for token in range(tokenizer.get_vocab_size()) if "<0x" not in tokenizer.id_to_token(token)]
    for token in itertools.islice(itertools.cycle(plain[:64]), 2000):
        stream.push(token)
        most = max(most, len(stream.tokens))
    assert most <= 4 * CONTEXT


def save(tokenizer: Tokenizer, folder: Path, **changes: Any) -> Path:
    file = folder / "tokenizer.json"
    data = json.loads(tokenizer.to_str())
    file.write_text(json.dumps({**data, **changes}), encoding="utf-8")
    return file


def test_truncation_and_padding_of_the_file_are_reset(tmp_path: Path) -> None:
    tokenizer = byte_level()
    whole = tokenizer.encode("hello hello").ids
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=32, pad_id=0, pad_token=tokenizer.id_to_token(0))
    file = save(tokenizer, tmp_path)
    assert len(Tokenizer.from_file(str(file)).encode("hello hello").ids) == 32
    assert load_tokenizer(file).encode("hello hello").ids == whole


def test_dropout_of_the_file_is_reset(tmp_path: Path) -> None:
    vocab = numbered("a", "b", "ab", "abab")
    tokenizer = Tokenizer(models.BPE(vocab, [("a", "b"), ("ab", "ab")], dropout=0.9))
    loaded = load_tokenizer(save(tokenizer, tmp_path))
    assert {tuple(loaded.encode("abab" * 8).ids) for _ in range(20)} == {(vocab["abab"],) * 8}


def test_a_text_to_compare_on_is_not_truncated(tmp_path: Path) -> None:
    import msgspec

    from seqexport.runtimes.bundle import Bundle

    tokenizer = byte_level()
    tokenizer.enable_truncation(4)
    save(tokenizer, tmp_path)
    (tmp_path / "text").write_text("hello " * 40)
    manifest = bundle_of(make("mamba")).manifest
    text = msgspec.structs.replace(manifest.text, vocab_size=300)
    manifest = msgspec.structs.replace(manifest, files={"tokenizer.json": ""}, language_model=text)
    rows = read_rows(tmp_path / "text", Bundle(tmp_path, manifest), rows=2, prompt=8, tokens=64)
    assert rows.ids.shape == (2, 64)


def test_a_tokenizer_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer\.json: cannot be read as a tokenizer"):
        load_tokenizer(tmp_path / "tokenizer.json")


WITHOUT_UNKNOWN = {
    "words": models.WordLevel({"a": 0}, "<unk>"),
    "pieces": models.WordPiece({"a": 0}, unk_token="<unk>"),
    "pairs": models.BPE({"a": 0}, [], unk_token="<unk>"),
    "unigram": models.Unigram([("a", -1.0)]),
}


@pytest.mark.parametrize("name", WITHOUT_UNKNOWN)
def test_a_tokenizer_that_lacks_a_token_for_what_it_does_not_know(name: str, tmp_path: Path) -> None:
    """It loads, and knows some texts."""
    loaded = load_tokenizer(save(Tokenizer(WITHOUT_UNKNOWN[name]), tmp_path))
    assert encode(loaded, "a").ids == [0]
    with pytest.raises(UserError, match=r"^tokenizer\.json: its tokenizer fails on the text: .*(?i:unk)") as refused:
        encode(loaded, "xyz")
    assert "\n" not in str(refused.value)


def fast(**changes: Any) -> dict[str, Any]:
    """What a tokenizer.json holds, changed."""
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "\u00e9": 2, "ab": 3}, "merges": [["a", "b"]]}
    return {"version": "1.0", "added_tokens": [], "model": model | changes.pop("model", {}), **changes}


def charsmap(size: int, content: bytes) -> dict[str, Any]:
    """A normalizer of SentencePiece's, of which ``size`` bytes are to be a trie."""
    return {
        "type": "Precompiled",
        "precompiled_charsmap": base64.b64encode(size.to_bytes(4, "little") + content).decode(),
    }


NOWHERE = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "x", "type_id": 0}}],
    "pair": [],
    "special_tokens": {},
}
UNFIT = {
    "no charsmap": (fast(normalizer={"type": "Precompiled", "precompiled_charsmap": None}), "Precompiled: Error"),
    "a trie that leads out": (fast(normalizer=charsmap(4, b"\xff\xff\xff\xff a")), "index out of bounds"),
    "a special token that is none": (fast(post_processor=NOWHERE), "no entry found for key"),
    "pieces of no length": (fast(pre_tokenizer={"type": "FixedLength", "length": 0}), "chunk size must be non-zero"),
    "a decoder that takes too much": (
        fast(decoder={"type": "Strip", "content": "a", "start": 9, "stop": 9}),
        "index out of",
    ),
    "a trie of 4 GB": (fast(normalizer=charsmap(2**32 - 1, b"\xff" * 8)), "a charsmap that is cut short"),
    "one in a sequence": (
        fast(normalizer={"type": "Sequence", "normalizers": [charsmap(9, b"")]}),
        "a charsmap that is cut short",
    ),
    "half a character": (
        fast(model={"continuing_subword_prefix": "#", "merges": [["a", "\u00e9"]]}),
        "merges '\u00e9', which does not begin with the prefix '#'",
    ),
}
"""What does not fit together, and what is said of it: five panics, and three that would end the process."""

LOAD = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (1 << 31, 1 << 31))
from pathlib import Path
from seqexport.plugins.errors import UserError
from seqexport.runtimes.tokenizer_file import load_tokenizer
try:
    load_tokenizer(Path(sys.argv[1]))
except UserError as error:
    sys.exit(str(error))
"""


@pytest.mark.parametrize("name", UNFIT)
def test_a_tokenizer_on_which_the_library_panics_or_dies_is_one_line(name: str, tmp_path: Path) -> None:
    """In a process of its own: Rust tells of a panic on standard error, past Python."""
    content, told = UNFIT[name]
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(content))
    done = subprocess.run([sys.executable, "-c", LOAD, file], capture_output=True, text=True)
    assert done.returncode == 1, done
    assert done.stderr.startswith(f"{file}: cannot be read as a tokenizer: ") and done.stderr.count("\n") == 1
    assert told in done.stderr


def test_padding_without_end_is_never_made(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    padding = {"strategy": {"Fixed": 10**15}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
               "pad_type_id": 0, "pad_token": "a"}  # fmt: skip
    file.write_text(json.dumps(fast(padding=padding)))
    assert load_tokenizer(file).encode("ab").ids == [3]
