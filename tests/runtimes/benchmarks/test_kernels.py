"""The program that times the kernels, as far as it goes without a GPU: its table, its file, its clock, its peers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from seqexport.plugins.ops import experts as experts_op
from seqexport.runtimes.benchmarks import peers
from seqexport.runtimes.benchmarks.kernels import __main__ as program
from seqexport.runtimes.benchmarks.kernels import cases, experts, ssd
from seqexport.runtimes.benchmarks.kernels.bench import Rates, require_near
from seqexport.runtimes.benchmarks.kernels.report import Report, Timed, Wanted
from seqexport.runtimes.benchmarks.kernels.timing import clock_during

RATES = Rates(copy=4e12, product=8e14)


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA Test")


def test_the_clock_is_read_while_the_gpu_works(monkeypatch: pytest.MonkeyPatch) -> None:
    queued: list[int] = []
    monkeypatch.setattr(torch.cuda, "clock_rate", lambda: 1980 if queued else 345)
    monkeypatch.setattr(torch.cuda, "synchronize", queued.clear)
    assert clock_during(lambda: queued.append(1), seconds=0.01) == 1980e6


def test_what_is_wanted_is_held_against_the_fastest_of_what_is_there() -> None:
    peers_us = {"a": 30.0, "b": 20.0, "c": 5.0}
    faster = Timed("op", "1", 10.0, 4.0, peers_us, wanted=Wanted(1.5, "times a and b", ("a", "b")))
    assert (faster.measured, faster.row()["peer"], faster.row()["at_most"]) == (2.0, "c", False)
    assert Timed("op", "1", 10.0, 4.0, wanted=Wanted(0.5, "of the floor", ("floor",))).measured == 0.4
    assert Timed("op", "1", 10.0, 4.0, wanted=Wanted(1.3, "times d", ("d",))).measured is None
    within = Timed("op", "1", 10.0, 4.0, wanted=Wanted(12)).row()
    assert (within["measured"], within["target"], within["at_most"], within["peer"]) == (10.0, 12, True, "")
    assert Timed("op", "1", 10.0, 4.0).row()["target"] is None


def test_floors() -> None:
    assert RATES.floor(4e6) == pytest.approx(1.0) and RATES.floor(4e6, 1.6e9) == pytest.approx(2.0)


def test_what_is_not_near_is_not_timed() -> None:
    true = torch.ones(4, dtype=torch.float64)
    require_near(true.float() * (1 + 1e-4), true, 1e-3)
    with pytest.raises(ArithmeticError, match="not timed"):
        require_near(torch.tensor([1.0, 1.0, 1.0, float("nan")]), true, 1e-3)


def test_a_case_that_fails_is_said_and_the_others_are_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(bench: Any, size: int) -> Timed:
        if size == 2:
            raise RuntimeError("out of\nmemory")
        return Timed("scan", f"N={size}", 10.0, 4.0, {"mamba_ssm": 20.0}, wanted=Wanted(12))

    class Bench:
        rates = RATES

        def __init__(self, kernels: object) -> None:
            pass

    monkeypatch.setattr(program, "Bench", Bench)
    monkeypatch.setattr(program, "Kernels", str)
    monkeypatch.setattr(program, "CASES", {"scan": (measure, [(1,), (2,), (3,)]), "conv": (measure, [(2,)])})
    output = tmp_path / "kernels.json"
    with pytest.raises(SystemExit) as exited:
        program.main(["--library", "some.so", "--only", "scan", "--json", str(output)], standalone_mode=False)
    found = json.loads(output.read_text())
    assert exited.value.code == 1 and [row["shape"] for row in found["rows"]] == ["N=1", "N=3"]
    assert found["failures"] == [{"op": "scan", "shape": "(2,)", "error": "RuntimeError: out of memory"}]
    assert found["copy_bytes_per_s"] == RATES.copy and found["device"] == "NVIDIA Test"
    printed = capsys.readouterr().out
    assert "<= 12" in printed and "20.0 mamba_ssm" in printed and "failed: RuntimeError" in printed


def test_every_case_names_its_op() -> None:
    assert list(cases.CASES) == [
        "causal_conv1d", "selective_scan", "ssd_scan", "causal_attention", "linear", "experts",
    ]  # fmt: skip
    assert all(shapes and callable(measure) for measure, shapes in cases.CASES.values())
    assert sum(len(shape) == 6 for shape in ssd.WANTED) == 8


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_peers_of_the_experts_compute_the_same(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x, gate_up, down, weight = (
        torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)
        for shape in ((5, 8), (4, 12, 8), (4, 8, 6), (5, 2))
    )
    chosen = torch.rand(5, 4, generator=generator).topk(2).indices.int()
    (true,) = experts_op.reference(x[None], chosen[None], weight[None], gate_up, down, None, None)
    torch.testing.assert_close(experts.batched(x, chosen, weight, gate_up, down), true[0], rtol=1e-5, atol=1e-5)
    if dtype == torch.float64:
        torch.testing.assert_close(experts.grouped(x, chosen, weight, gate_up, down), true[0])


def test_a_peer_that_cannot_be_imported_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    peers._usable.cache_clear()
    for name in peers.NAMES:
        monkeypatch.setitem(sys.modules, name, None)
    tensor = torch.zeros(1, 2, 1, 1)
    assert peers.convolution(tensor, tensor, tensor) is None
    assert peers.ssd_scan(*[tensor] * 8) is None and peers.selective_scan(*[tensor] * 8) is None
    assert "mamba_ssm is left out" in capsys.readouterr().err
    peers._usable.cache_clear()


def test_the_report_needs_no_rows(tmp_path: Path) -> None:
    Report(RATES).write(tmp_path / "kernels.json")
    assert json.loads((tmp_path / "kernels.json").read_text())["rows"] == []
