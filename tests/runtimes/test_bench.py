"""``bench``: a table and a JSON of what was measured, on what."""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from seqexport.plugins.errors import UserError
from seqexport.runtimes.comparison.bench import Bench, bench, print_table
from seqexport.runtimes.comparison.measure import SpeedOptions
from seqexport.runtimes.ort.runner import OrtRunner
from seqexport.runtimes.output import write_json
from tests.conftest import Exported
from tests.runtimes.fake_gpu import open_fake

OPTIONS = SpeedOptions(lengths=(4, 200), batches=(1, 2), steps=3, repeats=2)


@pytest.fixture(scope="module")
def result(exported: Exported) -> Bench:
    with OrtRunner(exported("llama", target="portable", logits="last"), threads=1) as runner:
        return bench(runner, OPTIONS)


def test_every_size_is_there_with_numbers_or_a_reason(result: Bench) -> None:
    assert [(point.batch, point.length) for point in result.points] == [(1, 4), (2, 4), (1, 200), (2, 200)]
    for point in result.points[:2]:
        assert point.skipped is None
        assert point.prefill_seconds and point.decode_seconds and point.state_bytes
        assert (point.repeats, point.steps) == (2, 3)
    assert result.points[2].skipped == "the bundle's capacity is 64 tokens"


def test_the_json_is_the_result(result: Bench, tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    write_json(file, result)
    assert msgspec.json.decode(file.read_bytes(), type=Bench) == result
    assert result.machine.processor and result.machine.date.endswith("UTC")
    with pytest.raises(UserError, match="cannot be written"):
        write_json(tmp_path, result)


def test_the_table_names_bundle_backend_and_what_was_skipped(result: Bench) -> None:
    text = io.StringIO()
    print_table(result, Console(file=text, width=200))
    shown = text.getvalue()
    assert "float32: ONNX Runtime" in shown
    assert "batch 2, 200 tokens: the bundle's capacity is 64 tokens" in shown


def test_an_engine_tells_its_device_memory_and_its_graphs(exported: Exported) -> None:
    runner, _, runtime = open_fake(exported("mamba", target="portable", logits="last"))
    with runner:
        found = bench(runner, SpeedOptions(lengths=(7,), batches=(1, 5), steps=4, repeats=2))
    point, refused = found.points
    assert point.device_bytes and point.steps == 4
    assert refused.skipped and "--maxShapes input_ids:5x5" in refused.skipped
    assert found.description.endswith("decode as a CUDA graph")
    assert runtime.device == {}
