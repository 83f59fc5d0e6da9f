"""``generate``: texts, sessions, chats, and what it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest
from tokenizers import Tokenizer, decoders, models

from seqexport.plugins.reading import sha256
from seqexport.runtimes.bundle import open_bundle, write_manifest
from tests.cli.conftest import Run
from tests.conftest import Exported
from tests.sealing import reseal


def test_generate_refuses_a_bundle_without_a_vocabulary(run: Run, copy: Path) -> None:
    manifest = open_bundle(copy).manifest
    write_manifest(copy, msgspec.structs.replace(manifest, language_model=None))
    assert "bundle is not a language model's" in run("generate", copy, "--prompt", "x").refusal


def test_generate_prints_the_text_and_its_continuation(run: Run, shipped: Path) -> None:
    first, again = (run("generate", shipped, "--prompt", "def ", "--max-new-tokens", 8) for _ in range(2))
    assert (first.code, first.err) == (0, "")
    assert first.out == again.out
    assert first.out.startswith("def ")
    both = run("generate", shipped, "--prompt", "def ", "--prompt", "Return the", "--max-new-tokens", 8)
    assert both.out.startswith(f"--- 1 ---\n{first.out}--- 2 ---\nReturn the")


def test_generate_goes_on_where_it_ended(run: Run, shipped: Path, work: Path) -> None:
    drawn = ("--temperature", 0.9, "--top-k", 30, "--seed", 3)
    whole = run("generate", shipped, "--prompt", "def f(", "--max-new-tokens", 24, *drawn)
    first = run("generate", shipped, "--prompt", "def f(", "--max-new-tokens", 9, *drawn, "--save", "one")
    rest = run("generate", shipped, "--resume", "one", "--max-new-tokens", 15, "--save", "two")
    assert (first.code, rest.code) == (0, 0), first.err + rest.err
    assert first.out.removesuffix("\n") + rest.out == whole.out
    assert run("generate", shipped, "--resume", "two", "--prompt", "\nx", "--max-new-tokens", 1).out.startswith("\nx")


def test_what_generate_does_not_save_or_resume(run: Run, shipped: Path, work: Path) -> None:
    assert run("generate", shipped).refusal == "--prompt: nothing to continue; give a text, or --resume a session"
    wanted = "--save and --resume go with one --prompt to continue, and not with --chat"
    for args in (("--prompt", "x", "--prompt", "y", "--save", "a"), ("--chat", "--prompt", "x", "--resume", "a")):
        assert run("generate", shipped, *args).refusal == wanted
    assert run("generate", shipped, "--prompt", "x", "--save", work).refusal == (
        f"{work}: cannot be written (Is a directory)"
    )
    assert "none: cannot be read" in run("generate", shipped, "--resume", "none").refusal
    assert not list(work.iterdir())


def test_generate_of_byte_tokens_that_fit_no_character(run: Run, copy: Path) -> None:
    """A tokenizer whose tokens are the bytes, as Llama's is for what it has no token for."""
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.enable_truncation(4)
    (copy / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    reseal(copy)
    for seed in range(4):
        options = ("--temperature", 2, "--seed", seed, "--max-new-tokens", 48)
        alone = run("generate", copy, "--prompt", "def é", *options)
        assert (alone.code, alone.err) == (0, "")
        assert alone.out.startswith("def é")
        both = run("generate", copy, "--prompt", "def é", "--prompt", "def é", *options)
        assert both.out == f"--- 1 ---\n{alone.out}--- 2 ---\n{alone.out}"


def test_backends_give_the_same_text(run: Run, shipped_transformer: Path) -> None:
    ours, theirs = (
        run("generate", shipped_transformer, "--prompt", "The ", "--max-new-tokens", 20, "--backend", backend)
        for backend in ("ort", "torch")
    )
    assert theirs.code == 0
    assert ours.out == theirs.out


def test_bad_requests_to_generate_are_one_line(run: Run, shipped_transformer: Path) -> None:
    def refusal(*args: str) -> str:
        return run("generate", shipped_transformer, *args).refusal

    assert refusal("--prompt", "") == "the prompt is empty: give at least one token of text"
    long = refusal("--prompt", "x" * 9000)
    assert long.startswith("capacity of 9000 tokens: the bundle was exported for at most 8192; shorten the prompt")
    assert "--top-p 2.0: expected --temperature >= 0" in refusal("--prompt", "x", "--top-p", "2")


def test_no_tokenizer_is_one_line(run: Run, exported: Exported) -> None:
    bundle = exported("mamba", target="portable", logits="last").path
    refusal = run("generate", bundle, "--prompt", "x").refusal
    assert refusal == (
        f"{bundle} has no tokenizer.json: put one beside the checkpoint's weights and export again, "
        "or use the Python API with tokens"
    )


@pytest.fixture
def chatting(shipped: Path, tmp_path: Path) -> Path:
    """A bundle with a chat template."""
    folder = Path(shutil.copytree(shipped, tmp_path / "chat"))
    template = folder / "chat_template.jinja"
    template.write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:")
    manifest = open_bundle(shipped).manifest
    files = {**manifest.files, template.name: sha256(template)}
    write_manifest(folder, msgspec.structs.replace(manifest, files=files))
    return folder


def test_a_chat_answers_without_its_prompt(run: Run, chatting: Path) -> None:
    prompt = "system: Be brief.\nuser: Hi\nassistant:"
    whole = run("generate", chatting, "--prompt", prompt, "--max-new-tokens", 8).out
    answer = run("generate", chatting, "--chat", "--system", "Be brief.", "--prompt", "Hi", "--max-new-tokens", 8)
    assert prompt + answer.out == whole
    several = run(
        "generate", chatting, "--chat", "--system", "Be brief.", *["--prompt", "Hi"] * 2, "--max-new-tokens", 8
    )
    assert several.out == f"--- 1 ---\n{answer.out}--- 2 ---\n{answer.out}"


def test_chats_that_cannot_be(run: Run, shipped: Path) -> None:
    assert "has no chat template" in run("generate", shipped, "--chat", "--prompt", "Hi").refusal
    refusal = run("generate", shipped, "--system", "x", "--prompt", "Hi").refusal
    assert refusal == "--system: only a chat has a system message; add --chat"
