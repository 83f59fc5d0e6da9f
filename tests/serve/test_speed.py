"""The program that times a server counts every token of every stream."""

from __future__ import annotations

from seqexport.runtimes.benchmarks.serve_speed import measure
from tests.conftest import Exported


def test_streams_of_the_engine_and_of_a_server_are_counted(exported: Exported) -> None:
    bundle = exported("preset:mamba", target="ort", dtype="float32", logits="last")
    found = measure(bundle, "ort", 1, [1, 3], 20)
    for way in ("engine", "server"):
        assert [(each["streams"], each["tokens"]) for each in found[way]] == [(1, 20), (3, 60)]
        for each in found[way]:
            assert 0 < each["gap_median"] <= each["gap_p99"]
            assert each["first"] > 0 and each["tokens_per_second"] > 0
