"""The comparison: right numbers for a runner that is right, and for ones that are wrong in a known way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import log
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedModel

from seqexport.plugins.errors import UserError
from seqexport.runtimes.base import Floats, Lengths, Runner, Session, Tokens
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.comparison.accuracy import AccuracyOptions, bits, checkpoints, state_error
from seqexport.runtimes.comparison.compare import BundleResult, CompareOptions, Comparison, compare
from seqexport.runtimes.comparison.measure import SpeedOptions, measure
from seqexport.runtimes.comparison.original import reference_runners
from seqexport.runtimes.comparison.verdict import verdicts
from seqexport.runtimes.manifest import StateSpec
from seqexport.runtimes.pytorch.runner import TorchRunner
from seqexport.runtimes.text import read_rows
from tests.runtimes.tiny import bundle_of, make

SMALL = CompareOptions(
    AccuracyOptions(rows=2, prompt=5, steps=20),
    SpeedOptions(lengths=(4, 8), batches=(1, 2), steps=3, repeats=2, budget_seconds=60),
)


class Wrong(Runner):
    """The original, its logits and states multiplied by ``1 + error``, or refusing to run."""

    backend: ClassVar[str] = "wrong"

    def __init__(self, bundle: Bundle, model: PreTrainedModel, error: float) -> None:
        super().__init__(bundle)
        self.inner, self.error = TorchRunner(bundle, model), error

    @property
    def description(self) -> str:
        return "wrong on purpose"

    def session(self, batch: int = 1, capacity: int | None = None) -> Session:
        return WrongSession(self, self.inner.session(batch, capacity), self.error)

    def _close(self) -> None:
        self.inner.close()


class WrongSession(Session):
    def __init__(self, runner: Runner, inner: Session, error: float) -> None:
        super().__init__(runner, inner.batch, inner.capacity)
        self.inner, self.factor = inner, np.float32(1 + error)

    def _run(self, tokens: Tokens, seq_lens: Lengths) -> Floats:
        return self.inner.prefill(tokens, seq_lens) * self.factor

    def _read_state(self, spec: StateSpec) -> NDArray[np.floating]:
        return self.inner._read_state(spec) * self.factor

    def _write(self, states: Mapping[str, NDArray[np.floating]], lengths: Lengths) -> None:
        self.inner.write_states(states, lengths)

    def _close(self) -> None:
        self.inner.close()


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "heldout.txt"
    path.write_text("Ça va: the quick brown fox jumps over the lazy dog — twice. " * 4, encoding="utf-8")
    return path


@pytest.fixture(scope="module", params=["mamba", "llama"])
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return make(request.param, vocab_size=256)


def run(model: PreTrainedModel, text: Path, error: float, **changes: Any) -> tuple[Comparison, BundleResult]:
    backends = {
        "torch": lambda bundle: TorchRunner(bundle, model),
        "wrong": lambda bundle: Wrong(bundle, model, error),
    }
    comparison = compare(
        [bundle_of(model)],
        text=text,
        options=SMALL,
        **{"backends": backends, "original": reference_runners(lambda bundle: model)} | changes,
    )
    return comparison, comparison.bundles[0]


def test_the_original_itself_passes_every_check(model: PreTrainedModel, text: Path) -> None:
    comparison, bundle = run(model, text, 0.0)
    original, same = bundle.results
    assert comparison.passed
    assert same.passed
    assert bundle.own is not None
    assert bundle.own.decode_error is not None
    assert 0 < bundle.own.decode_error < 1e-5
    assert original.accuracy == bundle.own
    assert same.accuracy is not None
    assert same.accuracy.decode_error == pytest.approx(bundle.own.decode_error, rel=0.5)
    assert same.accuracy.agreement == 1
    assert same.accuracy.bits_per_byte == pytest.approx(bundle.bits_per_byte, rel=1e-5)
    assert {state.step for state in same.accuracy.states} == {0, 1, 10, 20}
    assert same.accuracy.steps[-1].step == 20


def test_a_known_error_is_measured_and_fails(model: PreTrainedModel, text: Path) -> None:
    comparison, bundle = run(model, text, 0.01)
    wrong = bundle.results[1]
    assert wrong.accuracy is not None
    assert wrong.accuracy.prompt_error == pytest.approx(0.01, rel=1e-3)
    assert wrong.accuracy.decode_error == pytest.approx(0.01, rel=1e-3)
    for step in wrong.accuracy.steps:
        assert step.error == pytest.approx(0.01, rel=1e-3)
    for state in wrong.accuracy.states:
        assert state.error == pytest.approx(0.01, rel=1e-3)
    assert wrong.accuracy.agreement == 1
    assert not any(check.passed for check in wrong.checks)
    assert not comparison.passed


def test_an_error_after_a_shorter_prompt_is_measured(model: PreTrainedModel, text: Path) -> None:
    class WrongPrompt(TorchRunner):
        def session(self, batch: int = 1, capacity: int | None = None) -> Session:
            session = super().session(batch, capacity)
            return WrongSession(self, session, 0.01) if capacity == 2 else session

    _, bundle = run(model, text, 0.0, backends={"wrong": lambda bundle: WrongPrompt(bundle, model)})
    wrong = bundle.results[0].accuracy
    assert wrong is not None
    assert wrong.prompt_error is not None
    assert 0.001 < wrong.prompt_error < 0.01
    assert wrong.decode_error is not None
    assert wrong.decode_error < 1e-5
    assert [check.what for check in bundle.results[0].checks if not check.passed] == ["logits after the prompts"]


def test_what_is_not_finite_fails_and_survives_json(model: PreTrainedModel, text: Path) -> None:
    comparison, bundle = run(model, text, float("nan"))
    wrong = bundle.results[1]
    assert wrong.accuracy is not None
    assert wrong.accuracy.decode_error is None
    assert not any(check.passed for check in wrong.checks)
    assert msgspec.json.decode(msgspec.json.encode(comparison), type=Comparison) == comparison


def test_a_backend_that_fails_is_a_result(model: PreTrainedModel, text: Path) -> None:
    def fail(bundle: Bundle) -> Runner:
        raise UserError("no such device; plug one in")

    comparison = compare(
        [bundle_of(model)],
        {"trt": fail},
        text=text,
        original=reference_runners(lambda bundle: model),
        options=SMALL,
    )
    assert comparison.bundles[0].results[0].error == "no such device; plug one in"
    assert not comparison.passed


def test_without_pytorch_speed_only(model: PreTrainedModel) -> None:
    comparison, bundle = run(model, Path("no such file"), 0.0, original=None)
    assert bundle.own is None
    assert bundle.note == "no PyTorch here: speed only"
    assert [result.passed for result in bundle.results] == [None, None]
    assert all(point.prefill_seconds for point in bundle.results[1].points)
    assert comparison.passed


def test_measures_every_size(model: PreTrainedModel) -> None:
    with TorchRunner(bundle_of(model), model) as runner:
        points = measure(runner, SMALL.speed)
    assert [(p.batch, p.length) for p in points] == [(1, 4), (2, 4), (1, 8), (2, 8)]
    for point in points:
        assert point.repeats == 2
        assert point.steps == 3
        assert point.state_bytes == runner.manifest.state_bytes(point.batch, point.length)
        assert point.prefill_seconds
        assert point.prefill_tokens_per_second == point.batch * point.length / point.prefill_seconds


def test_says_what_it_skips() -> None:
    model = make("llama")
    options = msgspec.structs.replace(SMALL.speed, lengths=(4, 1000), batches=(1,), budget_seconds=1e9)
    with TorchRunner(bundle_of(model), model) as runner:
        first, second = measure(runner, options)
        hurried = measure(runner, msgspec.structs.replace(options, lengths=(4, 8), budget_seconds=0.0))
    assert first.skipped is None
    assert second.skipped == "the bundle's capacity is 64 tokens"
    assert hurried[0].prefill_seconds
    assert hurried[1].skipped is not None
    assert "time budget" in hurried[1].skipped


def test_rows_are_cut_to_the_capacity(text: Path) -> None:
    model = make("llama", vocab_size=256)
    comparison = compare(
        [bundle_of(model, capacity=12)],
        {"torch": lambda bundle: TorchRunner(bundle, model)},
        text=text,
        original=reference_runners(lambda bundle: model),
        options=SMALL,
    )
    assert (comparison.bundles[0].prompt, comparison.bundles[0].steps) == (5, 7)


def test_bytes_of_a_row_are_its_tokens(text: Path) -> None:
    rows = read_rows(text, bundle_of(make("mamba", vocab_size=256)), rows=3, prompt=5, tokens=25)
    assert rows.ids.shape == (3, 25)
    assert rows.bytes == 3 * 20
    assert bytes(rows.ids[0].astype(np.uint8)) == text.read_bytes()[:25]


def test_refuses_a_text_that_is_too_short(tmp_path: Path) -> None:
    bundle = bundle_of(make("mamba", vocab_size=256))
    (tmp_path / "short.txt").write_text("short")
    with pytest.raises(UserError, match="5 tokens; the comparison needs 9"):
        read_rows(tmp_path / "short.txt", bundle, rows=1, prompt=2, tokens=9)
    with pytest.raises(UserError, match="cannot be read"):
        read_rows(tmp_path / "none.txt", bundle, rows=1, prompt=2, tokens=9)
    with pytest.raises(UserError, match="no tokenizer"):
        read_rows(tmp_path / "short.txt", bundle_of(make("mamba")), rows=1, prompt=2, tokens=9)


@pytest.mark.parametrize("before", [[], ["<s>"], ["<s>", "<t>"]], ids=len)
def test_rows_begin_as_the_tokenizer_begins_every_text(tmp_path: Path, before: list[str]) -> None:
    text = tmp_path / "heldout.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 4)
    special = ["<s>", "<t>", "</s>"]
    words = {token: i for i, token in enumerate(special + sorted(ByteLevel.alphabet()))}
    tokenizer = Tokenizer(BPE(vocab=words, merges=[]))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(special)
    if before:  # and an end, which has no place before more text
        tokenizer.post_processor = TemplateProcessing(
            single=[*before, "$A", "</s>"], special_tokens=[(token, words[token]) for token in special]
        )
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    manifest = msgspec.structs.replace(
        bundle_of(make("mamba", vocab_size=len(words))).manifest, files={"tokenizer.json": ""}
    )
    rows = read_rows(text, Bundle(tmp_path, manifest), rows=3, prompt=5, tokens=25)
    assert rows.ids.shape == (3, 25)
    for row in rows.ids:
        assert row[: len(before)].tolist() == [words[token] for token in before]
        assert row[len(before) :].min() >= len(special)
    assert rows.bytes == 3 * 20
    content = text.read_bytes()[: 25 - len(before)].decode()
    assert tokenizer.encode(content, add_special_tokens=False).ids == rows.ids[0, len(before) :].tolist()


def poisoned(dtype: torch.dtype, factor: float) -> PreTrainedModel:
    model = make("llama", dtype, vocab_size=256)
    with torch.no_grad():
        for projection in (model.model.layers[2].mlp.up_proj, model.model.layers[2].mlp.down_proj):
            projection.weight.mul_(factor)
    return model


def test_an_original_that_is_not_finite_is_named(text: Path) -> None:
    with pytest.raises(
        UserError, match=r"llama-tiny: the original's logits on heldout.txt are not finite even in float64"
    ):
        run(poisoned(torch.float32, float("nan")), text, 0.0)


def test_pytorch_that_overflows_in_its_dtype_fails_by_name(text: Path) -> None:
    comparison, bundle = run(poisoned(torch.float16, 3e3), text, 0.0)
    assert not comparison.passed
    assert bundle.own is not None
    assert bundle.own.decode_error is None
    wrong = bundle.results[1]
    assert [check.passed for check in wrong.checks if check.own is None] == [False, False]
    assert wrong.points[0].skipped is not None
    assert "are not finite on wrong in float16" in wrong.points[0].skipped
    headline = verdicts(comparison)[0]
    assert headline.good is False
    assert headline.text.startswith(
        "PyTorch’s own logits after the prompts of llama-tiny are not finite in float16: export"
    )
    data = json.loads(msgspec.json.encode(comparison), parse_constant=pytest.fail)
    assert data["bundles"][0]["own"]["decode_error"] is None
    assert msgspec.json.decode(msgspec.json.encode(comparison), type=Comparison) == comparison


def test_bits_of_a_uniform_guess() -> None:
    assert bits(np.zeros((3, 8)), np.array([0, 3, 7])) == pytest.approx(9)
    assert bits(np.array([[log(3), 0.0]]), np.array([0])) == pytest.approx(-log(0.75) / log(2))


def test_state_error() -> None:
    true = np.array([3.0, 4.0])
    assert state_error(true * 1.5, true, "x") == pytest.approx(0.5)
    assert state_error(np.array([np.nan, 0]), true, "x") == float("inf")
    with pytest.raises(UserError, match="shape"):
        state_error(true[:1], true, "x")


@pytest.mark.parametrize(("steps", "expected"), [(1, [0, 1]), (20, [0, 1, 10, 20]), (1000, [0, 1, 10, 100, 1000])])
def test_checkpoints(steps: int, expected: list[int]) -> None:
    assert checkpoints(steps) == expected
