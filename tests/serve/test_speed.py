"""The programs that time a server count every token of every stream, and time sessions that go on."""

from __future__ import annotations

import pytest

from seqexport.plugins.errors import UserError
from seqexport.runtimes.benchmarks import serve_resume
from seqexport.runtimes.benchmarks.serve_speed import measure
from tests.conftest import Exported


def test_streams_of_the_engine_and_of_a_server_are_counted(exported: Exported) -> None:
    bundle = exported("preset:mamba", target="ort", dtype="float32", logits="last")
    found = measure(bundle, "ort", {"threads": 1}, [1, 3], 200, rounds=1)
    for way in ("engine", "server"):
        assert [(each["streams"], each["tokens"]) for each in found[way]] == [(1, 200), (3, 600)]
        for each in found[way]:
            assert 0 < each["gap_median"] <= each["gap_p99"]
            assert each["first"] > 0 and each["tokens_per_second"] > 0


@pytest.mark.parametrize("preset", ["mamba", "transformer"])
def test_a_session_goes_on_in_memory_and_from_its_file(exported: Exported, preset: str) -> None:
    bundle = exported(f"preset:{preset}", target="ort", dtype="float32", logits="last")
    found = serve_resume.measure(bundle, tokens=100, sessions=2)
    assert found["tokens"] == 100
    assert found["seconds"].keys() == {"prefill", "memory", "file", "swapped"}
    assert found["shares"]["memory"] == found["seconds"]["memory"] / found["seconds"]["prefill"] > 0


def test_a_bundle_that_takes_fewer_tokens_is_said_so(exported: Exported) -> None:
    bundle = exported("preset:transformer", target="ort", dtype="float32", logits="last")
    with pytest.raises(UserError, match=r"the server answered 400: .*the prompt has 9000 tokens: expected fewer than"):
        serve_resume.measure(bundle, tokens=9000, sessions=1)
