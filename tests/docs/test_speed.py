"""The tables of docs/performance.md say what a GPU run's results say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from seqexport.exporter.benchmarks.results import FORMAT_VERSION, Report, Row, StepResult
from seqexport.runtimes.machine import this_machine
from tests.docs import serving, speed


def test_the_page_has_the_tables_of_the_results() -> None:
    page = speed.PAGE.read_text(encoding="utf-8")
    assert page == speed.written(page, speed.results()), "python -m tests.docs.speed"


def kernel(op: str, shape: str, ours: float, peer: tuple[str, float] | None, target: float | None = None) -> Row:
    name, peer_us = peer or ("", None)
    detail = {"op": op, "shape": shape, "ours_us": ours, "floor_us": 131.25, "peer": name, "peer_us": peer_us}
    return Row(f"{op} {shape}", measured=ours, unit="us", target=target, at_most=target is not None, detail=detail)


def model(name: str, torch: list[dict[str, Any]], *, step: float, prefill: float) -> Row:
    engine = {"step": step, "prefill": prefill, "runner": "TensorRT 8.6.0, NVIDIA Test"}
    return Row(f"{name}-fp16: decode", measured=step * 1e3, unit="ms", detail={"torch": torch, "engine": engine})


def report(*steps: StepResult) -> Report:
    return Report(FORMAT_VERSION, "NVIDIA Test", "90", this_machine(), steps)


def test_kernels() -> None:
    made = speed.section(
        report(
            StepResult(
                "speed",
                "passed",
                1.0,
                (
                    kernel("linear", "M,K=(1,2)", 1.0, None),
                    kernel("ssd_scan", "B,L,H,P,N,G=(8, 2048, 80, 64, 128, 1)", 264.4, ("mamba_ssm", 793.2), 265),
                    kernel("ssd_scan", "B,L,H,P,N,G=(1, 1, 80, 64, 128, 1)", 2.71, None, 2.6),
                    kernel("experts", "M,D=(1,2048) E=128 k=8 F=768 bfloat16", 20.0, ("torch grouped_mm", 50.0)),
                ),
                date="2026-11-29",
            )
        )
    )
    assert "| (8, 2048, 80 × 64, 128, 1) | 264 µs | 265 µs | 131 µs | 793 µs | 3× |" in made
    assert "| (1, 1, 80 × 64, 128, 1): one token | 2.71 µs | 2.6 µs (missed) | 131 µs | – |  |" in made
    assert "| 1 | 8 of 128, 2048 to 768 | 20 µs | 131 µs | 50 µs: grouped_mm | 2.5× |" in made
    assert "gpu_h200.json`, 2026-11-29" in made and "M,K=" not in made and "Whole models" not in made


def test_models() -> None:
    run = {"torch": "2.11.0", "transformers": "5.17.0", "eager_step": 0.06, "prefill": 0.1, "peers": True}
    hybrid = Row("nemotron-3-nano-4b-fp16: prefill of 2048 tokens, times llama-4b's", measured=1.234, target=1.3,
                 at_most=True)  # fmt: skip
    rows = (
        model("mamba2-2.7b", [{**run, "compiled_step": 0.006}], step=0.003, prefill=0.04),
        model("nemotron-3-nano-4b", [{**run, "peers": False, "prefill": 1.68}], step=0.004, prefill=0.05),
        model("llama-4b", [], step=0.005, prefill=0.06),
        model("mamba-130m", [run], step=0.1, prefill=0.1),
        hybrid,
    )
    made = speed.section(report(StepResult("models", "passed", 1.0, rows)))
    assert "| Mamba-2, 2.7 B parameters | 40 ms | 100 ms (2.5×) | 3 ms | 60 ms (20.0×) | 6 ms (2.0×) |" in made
    lacking = "| Nemotron-3-Nano-4B, 3.97 B; transformers without mamba_ssm's kernels"
    assert f"{lacking} | 50 ms | 1.68 s (33.6×) | 4 ms | 60 ms (15.0×) | – |" in made
    assert "| Llama of that size, 3.99 B | 60 ms | – | 5 ms | – | – |" in made
    told = " ".join(made.split())
    assert "takes 1.23 times as long" in told and "at most 1.3 wanted" in told and "130m" not in told
    assert "TensorRT 8.6.0, PyTorch 2.11.0, transformers 5.17.0, torch.compile" in told


def test_what_was_not_measured_is_not_on_the_page() -> None:
    empty = report(StepResult("speed", "passed", 1.0, (kernel("linear", "M,K=(1,2)", 1.0, None),)))
    page = f"before\n{speed.BEGIN}\nold\n{speed.END}\nafter"
    assert speed.section(empty) == "" and speed.written(page, empty) == f"before\n{speed.BEGIN}{speed.END}\nafter"


def test_a_server(tmp_path: Path) -> None:
    def row(name: str, n: int, rate: float) -> Row:
        http = {"streams": n, "tokens_per_second": rate, "gap_p99": 0.0123}
        return Row(f"{name}: {n} streams", measured=rate, detail={"over_http": http, "step_seconds": 0.01})

    rows = [row(name, n, 90.0 * n) for name in ("mamba-1.4b-fp16", "mamba-1.4b-fp16-portable") for n in (1, 256)]
    step = StepResult(
        "serving", "passed", 1.0, (*rows, Row("llama-1.4b-fp16: served", passed=False)), date="2026-12-01"
    )
    made = speed.section(report(step))
    assert "| Mamba, 1.4 B, TensorRT | 256 | 23,040 | 25,600 | 90% | 12.3 ms |" in made
    assert "| Mamba, 1.4 B, ONNX Runtime | 1 | 90 | 100 | 90% | 12.3 ms |" in made and "Llama" not in made
    serving.draw(serving.served(step), tmp_path / "serving.svg")
    picture = (tmp_path / "serving.svg").read_text()
    assert all(name in picture for name in ("Mamba, 1.4 B", "TensorRT, served", "ORT, served", "streams"))
