"""The front of a repository, over the engine that its configuration describes: text as ``generate`` gives it."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.model import Model
from seqexport.runtimes.ort.runner import OrtRunner
from seqexport.runtimes.triton import engines
from seqexport.runtimes.triton.package import package
from tests.conftest import Exported
from tests.triton import backend_utils
from tests.triton.backend_utils import Asked, Refused, strings
from tests.triton.configs import configs
from tests.triton.engine import Engine

PROMPT = "The state of a"
MODELS = ("preset:mamba", "preset:hybrid")
Inputs = dict[str, NDArray[Any]]


class Triton:
    """A repository that is served."""

    def __init__(self, bundle: Bundle, folder: Path, **options: Any) -> None:
        written = package(
            bundle, folder / "repository", name="talker", mounted_at=str(folder / "repository"), **options
        )
        found = configs(written.path)
        self.engine = Engine(written.path / written.engine, found[written.engine])
        backend_utils.engines[written.engine] = self.engine
        version = written.path / written.name / "1"
        spec = importlib.util.spec_from_file_location("model", version / "model.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.front = module.TritonPythonModel()
        self.front.initialize({"model_config": json.dumps(found[written.name])})

    def ask(self, **inputs: Any) -> list[tuple[str, str]]:
        return self.begin(**inputs).responses()

    def begin(self, leaves_after: int | None = None, **inputs: Any) -> Asked:
        asked = Asked({name: given(value) for name, value in inputs.items()}, leaves_after)
        self.front.execute([asked])
        return asked

    def close(self) -> None:
        self.front.finalize()
        assert self.engine.sequences == {}, "a sequence was not ended"


def given(value: Any) -> NDArray[Any]:
    if isinstance(value, str):
        return strings(value)
    if isinstance(value, list) and isinstance(value[0], str):
        return strings(*value)
    return np.array(value if isinstance(value, list) else [value])


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Triton]]:
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", backend_utils)
    monkeypatch.delitem(sys.modules, "seqexport.runtimes.triton.front", raising=False)
    opened = list[Triton]()

    def open_one(bundle: Bundle, **options: Any) -> Triton:
        opened.append(Triton(bundle, tmp_path, **options))
        return opened[-1]

    yield open_one
    for each in opened:
        each.close()


@pytest.mark.parametrize("name", MODELS)
def test_text_is_what_generate_gives(name: str, exported: Exported, serve: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(engines, "USUAL", engines.Sizes(max_batch=2, max_tokens=96, chunk=5))
    monkeypatch.setattr("seqexport.runtimes.triton.package.USUAL", engines.USUAL)
    bundle = exported(name, target="portable", dtype="float32", logits="last")
    triton = serve(bundle)
    with OrtRunner(bundle, threads=1, plugins=False) as runner:
        model = Model(runner)
        for sampled in ({"temperature": 0.0}, {"temperature": 0.8, "top_p": 0.9, "top_k": 40}):
            expected = model.generate(PROMPT, max_new_tokens=24, seed=3, **sampled)[0]  # type: ignore[arg-type]
            asked = {"text_input": PROMPT, "max_tokens": 24, "random_seed": 3, **sampled}
            assert triton.ask(**asked) == [(expected, "length")]
            pieces = triton.ask(**asked, stream=True)
            assert "".join(text for text, _ in pieces) == expected and len(pieces) > 10
            assert [reason for _, reason in pieces] == [""] * (len(pieces) - 1) + ["length"]
        tokens = list(PROMPT.encode())
        assert triton.ask(input_ids=tokens, temperature=0.0)[0][0] == model.generate(PROMPT, max_new_tokens=16)[0]


def test_many_at_once_wait_for_their_turn(exported: Exported, serve: Any) -> None:
    triton = serve(exported("preset:mamba", target="portable", dtype="float32", logits="last"), max_batch=2)
    alone = [triton.ask(text_input=text, max_tokens=9, temperature=0.0) for text in "abc"]
    together = [triton.begin(text_input=text, max_tokens=9, temperature=0.0) for text in "abcabcabc"]
    assert [each.responses() for each in together] == alone * 3


def test_the_last_token_needs_no_call_and_a_stop_text_one(exported: Exported, serve: Any) -> None:
    triton = serve(exported("preset:mamba", target="portable", dtype="float32", logits="last"))
    (whole, _), *_ = triton.ask(text_input=PROMPT, max_tokens=8, temperature=0.0)
    assert triton.engine.calls == 8
    stopped = triton.ask(text_input=PROMPT, max_tokens=8, temperature=0.0, stop_words=[whole[4], "@@"])
    assert stopped == [(whole[: whole.index(whole[4])], "stop")]
    triton.front.finalize()
    assert triton.engine.calls == 8 + whole.index(whole[4]) + 2


def test_a_client_that_leaves_gives_its_slot_back(exported: Exported, serve: Any) -> None:
    triton = serve(exported("preset:mamba", target="portable", dtype="float32", logits="last"), max_tokens=400)
    left = triton.begin(leaves_after=2, text_input=PROMPT, max_tokens=300, stream=True)
    assert len(left.responses()) == 2
    triton.front.finalize()
    assert triton.engine.calls < 10 and triton.engine.sequences == {}


@pytest.mark.parametrize(("asked", "why"), [
    ({}, "text_input or input_ids: give one of them"),
    ({"text_input": "a", "input_ids": [1]}, "give one of them"),
    ({"text_input": ""}, "the prompt has 0 tokens: expected 1 to 63"),
    ({"text_input": "x" * 64}, "the prompt has 64 tokens: expected 1 to 63"),
    ({"input_ids": [1, 256]}, "token 256: outside the vocabulary of 256"),
    ({"input_ids": [-1]}, "token -1: outside the vocabulary of 256"),
    ({"text_input": "a", "max_tokens": 0}, "max_tokens 0: expected at least 1"),
    ({"text_input": "a", "temperature": -1.0}, "expected `temperature` >= 0"),
    ({"text_input": "a", "top_p": 0.0}, "0 < `top_p` <= 1"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(asked: Inputs, why: str, exported: Exported, serve: Any) -> None:
    triton = serve(exported("preset:mamba", target="portable", dtype="float32", logits="last"), max_tokens=64)
    with pytest.raises(Refused, match=why) as refused:
        triton.ask(**asked)
    assert refused.value.code == backend_utils.TritonError.INVALID_ARG
    assert triton.engine.calls == 0


def test_an_engine_that_fails_is_told(exported: Exported, serve: Any, monkeypatch: Any) -> None:
    triton = serve(exported("preset:mamba", target="portable", dtype="float32", logits="last"))

    def fail(*inputs: object, **options: object) -> None:
        raise ValueError("no memory")

    monkeypatch.setattr(triton.engine, "infer", fail)
    with pytest.raises(Refused, match="the engine talker-engine fails: no memory"):
        triton.ask(text_input="a")
