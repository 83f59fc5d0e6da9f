"""Generation: batches, greedy against transformers, sampling, and where it stops."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqexport.plugins.errors import UserError
from seqexport.runtimes.base import Floats, Lengths, Session, Tokens
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.generate import generate, new_tokens
from seqexport.runtimes.ort.runner import OrtRunner
from seqexport.runtimes.pytorch.checkpoint import load_original
from seqexport.runtimes.quiet import quiet
from seqexport.runtimes.sampling import Sampling, _likeliest, _uniform
from tests.conftest import Exported
from tests.exporter.families import VOCAB

PROMPTS = [[3, 1, 4, 1, 5, 9, 2, 6], [7], [2, 7, 1, 8], [31, 36]]
SAMPLED = Sampling(temperature=1.0, top_k=20, top_p=0.95, seed=5)


@pytest.fixture(scope="module", params=["mamba", "llama", "jamba"])
def runner(request: pytest.FixtureRequest, exported: Exported) -> Iterator[OrtRunner]:
    with OrtRunner(exported(request.param, target="ort", logits="last"), threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def llama(exported: Exported) -> Iterator[OrtRunner]:
    with OrtRunner(exported("llama", target="ort", logits="last"), threads=1) as opened:
        yield opened


def changed(runner: OrtRunner, **changes: Any) -> OrtRunner:
    """The bundle opened once more, with another manifest."""
    manifest = msgspec.structs.replace(runner.manifest, **changes)
    return OrtRunner(Bundle(runner.bundle.path, manifest), threads=1)


def draws(sampling: Sampling, logits: list[float], times: int = 200) -> set[int]:
    generators = sampling.generators(1)
    return {sampling.choose(np.array(logits, np.float32), generators, 0) for _ in range(times)}


@pytest.mark.parametrize("sampling", [Sampling(), SAMPLED], ids=["greedy", "sampled"])
def test_prompts_of_a_batch_give_what_each_gives_alone(runner: OrtRunner, sampling: Sampling) -> None:
    together = generate(runner, PROMPTS, max_new_tokens=12, sampling=sampling)
    assert together == [generate(runner, [p], max_new_tokens=12, sampling=sampling)[0] for p in PROMPTS]
    assert all(len(new) == 12 for new in together)


@pytest.mark.parametrize("name", ["untied", "irregular"])
def test_greedy_equals_transformers_generate(exported: Exported, name: str) -> None:
    bundle = exported(name, target="ort", logits="last")
    model = load_original(bundle.manifest.source.model)
    with OrtRunner(bundle) as runner:
        ours = generate(runner, PROMPTS, max_new_tokens=30)
    for prompt, made in zip(PROMPTS, ours, strict=True):
        with quiet(), torch.no_grad():
            ids = torch.tensor([prompt])
            whole = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=30, do_sample=False, pad_token_id=0
            )
        expected = whole[0, len(prompt) :].tolist()
        assert made == (expected[:-1] if expected[-1] in bundle.manifest.eos_token_ids else expected)


def test_a_seed_gives_the_same_tokens_and_another_seed_others(llama: OrtRunner) -> None:
    first, again, other = (
        generate(llama, PROMPTS[:1], max_new_tokens=20, sampling=Sampling(temperature=2.0, seed=seed))
        for seed in (1, 1, 2)
    )
    assert first == again != other


def test_temperature_0_takes_the_likeliest() -> None:
    assert draws(Sampling(), [0.0, 3.0, 2.9]) == {1}


def test_a_temperature_near_0_does_so_too() -> None:
    assert draws(Sampling(temperature=5e-324), [0.0, 3.0, 2.0]) == {1}


def test_top_k_keeps_the_k_likeliest() -> None:
    assert draws(Sampling(temperature=100, top_k=2), [0.0, 3.0, 2.0, 1.0]) == {1, 2}
    assert draws(Sampling(temperature=100, top_k=9), [0.0, 3.0]) == {0, 1}
    assert draws(Sampling(temperature=1, top_k=1), [0.0, 3.0, 2.0]) == {1}


@given(st.lists(st.sampled_from([-np.inf, -1.5, -0.0, 0.0, 0.25, 3.0]), min_size=1), st.integers(1, 30))
def test_of_equals_top_k_keeps_the_first(logits: list[float], count: int) -> None:
    values, count = np.array(logits, np.float32), min(count, len(logits))
    assert _likeliest(values, count).tolist() == np.argsort(-values, kind="stable")[:count].tolist()


@pytest.mark.parametrize("vocab", [1, 2, 300, 50_280])
@pytest.mark.parametrize("spread", [0.01, 1.0, 5.0, 30.0])
@pytest.mark.parametrize("top_p", [1e-6, 0.5, 0.95, 0.999999, 1.0])
def test_what_is_put_in_order_in_parts_is_what_all_of_it_gives(vocab: int, spread: float, top_p: float) -> None:
    sampling, random = Sampling(temperature=0.8, top_p=top_p, seed=7), np.random.default_rng(vocab)
    logits = (random.standard_normal(vocab) * spread).astype(np.float32)
    logits[random.integers(0, vocab, vocab // 50)] = -np.inf
    order = np.argsort(-logits, kind="stable") if top_p < 1 else np.arange(vocab)
    reached = np.cumsum(np.exp((logits[order].astype(np.float64) - logits.max()) / 0.8))
    last = np.searchsorted(reached, top_p * reached[-1])
    generators, alike = sampling.generators(1), sampling.generators(1)
    for _ in range(20):
        place = np.searchsorted(reached[:last], _uniform(alike, 0) * reached[last], side="right")
        assert sampling.choose(logits, generators, 0) == order[place]


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.3, {0}), (0.5, {0}), (0.6, {0, 1}), (0.9, {0, 1, 2}), (1.0, {0, 1, 2, 3})]
)
def test_top_p_keeps_the_fewest_that_reach_p(top_p: float, kept: set[int]) -> None:
    logits = np.log([0.5, 0.25, 0.2, 0.05]).tolist()
    assert draws(Sampling(temperature=1, top_p=top_p), logits, 500) == kept


def test_sampling_follows_the_probabilities() -> None:
    sampling, logits = Sampling(temperature=1.0), np.log(np.array([0.6, 0.3, 0.1], np.float32))
    generators = sampling.generators(1)
    counts = np.bincount([sampling.choose(logits, generators, 0) for _ in range(4000)])
    np.testing.assert_allclose(counts / 4000, [0.6, 0.3, 0.1], atol=0.03)


def test_random_numbers_are_those_of_splitmix64() -> None:
    """The first numbers from state 0 are published beside Vigna's splitmix64.c."""
    state = np.zeros(1, np.uint64)
    drawn = [_uniform(state, 0) for _ in range(3)]
    assert drawn == [(word >> 11) * 2.0**-53 for word in (0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F)]


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_beyond_64_bits_are_refused(seed: int) -> None:
    with pytest.raises(UserError, match=rf"^`seed` {seed}: expected 0 to 2\^64 - 1$"):
        Sampling(seed=seed)


@pytest.mark.parametrize(
    "bad", [{"temperature": -1}, {"top_k": -1}, {"top_p": 0}, {"top_p": 1.5}, {"temperature": float("nan")}], ids=str
)
def test_bad_sampling_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="expected `temperature` >= 0, `top_k` >= 0, 0 < `top_p` <= 1"):
        Sampling(**bad)


def test_stops_at_the_end_of_a_text_and_goes_on_with_the_others(llama: OrtRunner) -> None:
    free = generate(llama, PROMPTS, max_new_tokens=10)
    end = free[0][3]
    text = msgspec.structs.replace(llama.manifest.text, eos_token_ids=(VOCAB - 2, end))
    with changed(llama, language_model=text) as runner:
        made = generate(runner, PROMPTS, max_new_tokens=10)
    assert made == [new[: new.index(end)] if end in new else new for new in free]


@pytest.mark.parametrize("longest", [8, 9, 12])
def test_a_row_stops_at_the_capacity_and_the_others_go_on(llama: OrtRunner, longest: int) -> None:
    free = generate(llama, PROMPTS, max_new_tokens=10)
    with changed(llama, capacity=longest) as runner:
        made = generate(runner, PROMPTS, max_new_tokens=10)
    for prompt, new, unlimited in zip(PROMPTS, made, free, strict=True):
        assert new == unlimited[: longest - len(prompt) + 1]


def test_tokens_are_told_row_by_row_as_they_come(llama: OrtRunner) -> None:
    made = generate(llama, PROMPTS[:2], max_new_tokens=3)
    told = new_tokens(llama, PROMPTS[:2], max_new_tokens=3, sampling=Sampling())
    assert list(told) == [(row, made[row][step]) for step in range(3) for row in range(2)]


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "the prompt is empty"),
        ([[1], []], "the prompt is empty"),
        ([[1, VOCAB]], f"token {VOCAB}: outside the vocabulary of {VOCAB}"),
        ([[-1]], "token -1: outside the vocabulary"),
        ([[1] * 65], "capacity of 65 tokens: the bundle was exported for at most 64; shorten the prompt"),
    ],
    ids=str,
)
def test_bad_prompts_are_refused(llama: OrtRunner, prompts: list[list[int]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        generate(llama, prompts, max_new_tokens=1)


class Overflowing(OrtRunner):
    """The bundle on ONNX Runtime, one logit of its second row not finite after so many calls."""

    value, calls = float("nan"), 0

    def session(self, batch: int = 1, capacity: int | None = None) -> Session:
        session = super().session(batch, capacity)
        run = session._run

        def overflow(tokens: Tokens, seq_lens: Lengths) -> Floats:
            logits = run(tokens, seq_lens).copy()
            self.calls -= 1
            logits[1, -1, 5] = self.value if self.calls < 0 else 0.0
            return logits

        session._run = overflow  # type: ignore[method-assign]
        return session


@pytest.mark.parametrize(
    "sampling",
    [Sampling(), Sampling(1.0), Sampling(1.0, top_k=3), Sampling(1.0, top_p=0.5), SAMPLED],
    ids=["greedy", "temperature", "top-k", "top-p", "all"],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("calls", [0, 2])
def test_logits_that_are_not_finite_stop_it(llama: OrtRunner, sampling: Sampling, value: float, calls: int) -> None:
    with Overflowing(llama.bundle, threads=1) as runner:
        runner.value, runner.calls = value, calls
        kind = "NaN" if np.isnan(value) else "infinite"
        message = (
            rf"^the logits of sequence 2 after {1 + calls} tokens are not finite on ort in float32: "
            rf"1 of {VOCAB} values \({kind}\); no dtype here reaches further"
        )
        with pytest.raises(UserError, match=message):
            generate(runner, PROMPTS, max_new_tokens=5, sampling=sampling)
