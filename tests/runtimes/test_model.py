"""A bundle as a thing to talk to: streams, batches, chats and sessions say the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

import seqexport
from seqexport.plugins.reading import sha256
from seqexport.runtimes.bundle import Bundle, write_manifest
from seqexport.runtimes.generate import generate
from seqexport.runtimes.ort.runner import OrtRunner
from seqexport.runtimes.sampling import Sampling
from tests.conftest import Exported

DRAWN = {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "seed": 3}
PROMPTS = ["Return the ", "def f(x):\n    return", "One"]


@pytest.fixture(scope="module")
def bundle(exported: Exported) -> Bundle:
    return exported("preset:mamba", target="ort", dtype="float32", logits="all")


@pytest.fixture(scope="module")
def model(bundle: Bundle) -> Iterator[seqexport.Model]:
    with seqexport.load(bundle, threads=1) as opened:
        yield opened


@pytest.mark.parametrize("sampling", [{}, DRAWN], ids=["greedy", "drawn"])
def test_streams_and_batches_are_what_the_tokens_say(model: seqexport.Model, sampling: dict[str, float]) -> None:
    ids = [model.tokenizer.encode(prompt) for prompt in PROMPTS]
    with OrtRunner(model.bundle, threads=1) as runner:
        made = generate(runner, ids, max_new_tokens=24, sampling=Sampling(**sampling))  # type: ignore[arg-type]
    whole = [model.tokenizer.decode([*before, *new]) for before, new in zip(ids, made, strict=True)]
    expected = [text[len(model.tokenizer.decode(before)) :] for text, before in zip(whole, ids, strict=True)]
    assert model.generate(PROMPTS, max_new_tokens=24, **sampling) == expected  # type: ignore[arg-type]
    streamed = ["".join(model.stream(prompt, max_new_tokens=24, **sampling)) for prompt in PROMPTS]  # type: ignore[arg-type]
    assert streamed == expected
    assert model.generate(PROMPTS[0], max_new_tokens=24, **sampling) == expected[:1]  # type: ignore[arg-type]


def test_text_comes_as_it_is_made(model: seqexport.Model) -> None:
    pieces = list(model.stream("Return the ", max_new_tokens=16))
    assert len(pieces) > 4
    assert all(pieces)


@pytest.mark.parametrize("call", ["stream", "generate"])
def test_bad_arguments_are_told_at_the_call(model: seqexport.Model, call: str) -> None:
    with pytest.raises(seqexport.Error, match="`top_p` 2: expected"):
        getattr(model, call)("x", top_p=2)
    with pytest.raises(seqexport.Error, match="`max_new_tokens` 0: expected at least 1"):
        getattr(model, call)("x", max_new_tokens=0)
    with pytest.raises(seqexport.Error, match="the prompt is empty"):
        getattr(model, call)("")


def test_a_chat_is_the_templates_prompt_continued(bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "chat"
    shutil.copytree(bundle.path, folder)
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
    (folder / "chat_template.jinja").write_text(template)
    files = {**bundle.manifest.files, "chat_template.jinja": sha256(folder / "chat_template.jinja")}
    write_manifest(folder, msgspec.structs.replace(bundle.manifest, files=files))
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    with seqexport.load(folder, threads=1) as model:
        answer = "".join(model.chat(messages, max_new_tokens=8))
        assert answer == "".join(model.stream("system: Be brief.\nuser: Hi\nassistant:", max_new_tokens=8))


def test_a_base_model_has_no_chat(model: seqexport.Model) -> None:
    with pytest.raises(seqexport.Error, match="has no chat template, as base models have none"):
        model.chat([{"role": "user", "content": "x"}])


def test_sessions_share_the_model(model: seqexport.Model) -> None:
    tokens = np.array([[3, 1, 4, 1, 5]])
    with model.session() as whole, model.session() as steps:
        expected = whole.prefill(tokens)[:, -1]
        for token in tokens[0]:
            logits = steps.step(np.array([token]))
        assert np.abs(logits.reshape(expected.shape) - expected).max() < 1e-4
        for name, state in whole.read_states().items():
            assert np.abs(state - steps.read_states()[name]).max() < 1e-3


def test_json_of_a_description(model: seqexport.Model) -> None:
    assert json.dumps(model.description).startswith('"ONNX Runtime ')
