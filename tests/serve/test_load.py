"""The program that loads a server: every kind of request comes, and what is wrong does not pass."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from seqexport.runtimes.benchmarks.serve_load.__main__ import KINDS, measure
from seqexport.runtimes.benchmarks.serve_load.questions import Questions, Said
from seqexport.runtimes.benchmarks.serve_load.tally import Differs, Tally
from seqexport.runtimes.bundle import Bundle
from tests.conftest import Exported


@pytest.fixture
def bundle(exported: Exported) -> Bundle:
    return exported("preset:mamba", target="ort", dtype="float32", logits="last")


def test_a_mixed_load_gets_the_answers_of_each_alone(bundle: Bundle) -> None:
    found = measure(bundle, 400, 16, seed=1, threads=1)
    assert found["requests"] >= 400 and found["kinds"].keys() == KINDS.keys()
    assert {"200", "201", "400", "401", "404", "413", "left"} <= found["statuses"].keys()
    assert not {"500", "503"} & found["statuses"].keys()
    assert found["memory"]["most_bytes"] >= found["memory"]["last_bytes"] > 0
    assert found["cpu_seconds"]["server"] > 0


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"text": "otherwise"}, "and alone .*'otherwise'"),
        ({"tokens": 1000}, "the usage is"),
        ({"logprobs": (-9.0,)}, "log probabilities are"),
    ],
)
def test_an_answer_that_differs_ends_it(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], told: str
) -> None:
    alone = Questions._alone

    def other(self: Questions, *arguments: Any) -> Said:
        return replace(alone(self, *arguments), **changes)

    monkeypatch.setattr(Questions, "_alone", other)
    with pytest.raises(Differs, match=rf"request \d+, (whole|streamed|slow|left): .*{told}"):
        measure(bundle, 400, 4, seed=0, threads=1)


def test_drift_is_of_the_last_tenth_over_the_first_after_the_warm_one() -> None:
    tally = Tally(1000)
    tally.memory = [(asked, 100 if asked < 100 else 1000 + asked) for asked in range(1001)]
    found = tally.drift()
    assert (found["samples"], found["first_bytes"], found["last_bytes"]) == (900, 1109, 1919)
    assert found["drift"] == pytest.approx(1919 / 1109 - 1)
    assert found["median_bytes"] == [1144, 1954]
    assert found["course"][0] == [0, 100]
