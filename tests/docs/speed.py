"""The tables of docs/performance.md that are made of a GPU run's results: scans, experts, whole models, a server.

python -m tests.docs.speed    write them
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from typing import Any

import msgspec

from seqexport.exporter.benchmarks.bundles import HUGE, HYBRID, Wanted
from seqexport.exporter.benchmarks.results import Report, Row, StepResult
from tests.docs import serving
from tests.docs.pages import ROOT

PAGE = ROOT / "docs" / "performance.md"
PICTURE = PAGE.with_name("serving.svg")
RESULTS = ROOT / "exporter" / "benchmarks" / "gpu_h200.json"
BEGIN, END = "<!-- the tables of python -m tests.docs.speed -->", "<!-- their end -->"
NAMES = {
    "mamba2-2.7b": "Mamba-2, 2.7 B parameters",
    "nemotron-3-nano-4b": "Nemotron-3-Nano-4B, 3.97 B",
    "llama-4b": "Llama of that size, 3.99 B",
}


def section(report: Report) -> str:
    """Markdown; what was not measured is not in it."""
    steps = {step.step: step for step in report.steps}
    parts: list[str] = []
    if "speed" in steps:
        parts += [*_ssd(report, steps["speed"]), *_experts(steps["speed"])]
    if "models" in steps:
        parts += _models(report, steps["models"])
    if "serving" in steps:
        parts += _served(report, steps["serving"])
    return "\n\n".join(["## Mamba-2, hybrids and experts", *parts]) if parts else ""


def _ssd(report: Report, step: StepResult) -> Iterator[str]:
    rows = [row for row in step.rows if row.detail.get("op") == "ssd_scan"]
    if rows:
        yield _text(f"""
            SsdScan on one {report.gpu}, bf16, with D, gate, dt bias, first and last states, beside mamba_ssm's Triton
            kernels at their best length of chunks, in the same run ({_made(report, step)}; CUDA events, L2 cleared,
            medians; one token in a CUDA graph). `floor` is what a copy's bandwidth or a product's rate allow:
        """)
        lines = [
            f"| {_ssd_shape(row)} | {_us(row.detail['ours_us'])} | {_wanted(row)} | {_us(row.detail['floor_us'])} "
            f"| {_beside(row)} |"
            for row in rows
        ]
        yield _table("(B, L, H × P, N, G) | ours | wanted | floor | mamba_ssm | ", lines)


def _ssd_shape(row: Row) -> str:
    B, L, H, P, N, G = re.findall(r"\d+", row.detail["shape"])
    return f"({B}, {L}, {H} × {P}, {N}, {G})" + (": one token" if L == "1" else "")


def _experts(step: StepResult) -> Iterator[str]:
    rows = [row for row in step.rows if row.detail.get("op") == "experts"]
    if rows:
        yield _text("Experts, likewise, in CUDA graphs, beside the faster of what transformers makes of PyTorch:")
        lines = [
            f"| {_experts_shape(row)} | {_us(row.detail['ours_us'])} | {_us(row.detail['floor_us'])} "
            f"| {_beside(row, named=True)} |"
            for row in rows
        ]
        yield _table("tokens | experts | ours | floor | PyTorch | ", lines)


def _experts_shape(row: Row) -> str:
    M, D, E, k, F = re.findall(r"\d+", row.detail["shape"].removesuffix("bfloat16"))
    return f"{M} | {k} of {E}, {D} to {F}"


def _models(report: Report, step: StepResult) -> Iterator[str]:
    rows = {row.name: row for row in step.rows}
    found = {model: rows[f"{model}-fp16: decode"].detail for model in HUGE if f"{model}-fp16: decode" in rows}
    if not found:
        return
    yield _text(f"""
        Whole models with random weights on one {report.gpu}, float16, batch 1, from tokens on the host to logits on the
        host: {_versions(list(found.values()))}, torch.compile with mode reduce-overhead, and mamba_ssm's
        kernels where the table does not say that they are missing ({_made(report, step)}):
    """)
    lines = [f"| {NAMES[model]}{_lacks(model, detail)} | {_times(detail)} |" for model, detail in found.items()]
    yield _table("model | prompt of 2048 tokens | transformers | then, a token | eager | torch.compile", lines)
    for row in step.rows:
        if row.at_most and row.name.startswith(HYBRID) and row.measured is not None:
            yield _text(f"""
                The hybrid's prompt takes {row.measured:.2f} times as long as that of the Transformer of its size (at
                most {row.target:g} wanted).
            """)


def _served(report: Report, step: StepResult) -> Iterator[str]:
    found = serving.served(step)
    if found:
        yield "### A server under many streams"
        yield _text(f"""
            Tokens a second of all streams together, over HTTP, beside what steps of a batch of that size give without a
            server; float16, random weights, prompts of 32 tokens, answers of 256, one {report.gpu}
            ({_made(report, step)}). The longest gap is that of 99 of 100 between two pieces of a text:
        """)
        yield f"![Tokens a second against streams, of the server and of the engine alone]({PICTURE.name})"
        head = "model | streams | served, tokens/s | the engine's own | share | longest gap"
        yield _table(head, list(serving.lines(found)))


def _versions(details: list[dict[str, Any]]) -> str:
    engine = details[0]["engine"]["runner"].partition(",")[0]
    runs = [run for detail in details for run in detail["torch"]]
    return f"{engine}, PyTorch {runs[0]['torch']}, transformers {runs[0]['transformers']}" if runs else engine


def _lacks(model: str, detail: dict[str, Any]) -> str:
    runs = detail["torch"]
    without = runs and Wanted(model, "fp16").has_peers and not any(run["peers"] for run in runs)
    return "; transformers without mamba_ssm's kernels" if without else ""


def _times(detail: dict[str, Any]) -> str:
    engine, runs = detail["engine"], detail["torch"]

    def beside(theirs: str, ours: str) -> str:
        times = [run[theirs] for run in runs if theirs in run]
        return f"{_ms(min(times))} ({min(times) / engine[ours]:.1f}×)" if times else "–"

    prefill = f"{_ms(engine['prefill'])} | {beside('prefill', 'prefill')}"
    return f"{prefill} | {_ms(engine['step'])} | {beside('eager_step', 'step')} | {beside('compiled_step', 'step')}"


def _beside(row: Row, *, named: bool = False) -> str:
    peer = row.detail["peer_us"]
    if peer is None:
        return "– | "
    who = f": {row.detail['peer'].removeprefix('torch ')}" if named else ""
    return f"{_us(peer)}{who} | {peer / row.detail['ours_us']:.2g}×"


def _wanted(row: Row) -> str:
    return f"{_us(row.target)}{'' if row.met else ' (missed)'}" if row.target is not None else ""


def _text(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 120, break_long_words=False, break_on_hyphens=False)


def _table(head: str, lines: list[str]) -> str:
    return "\n".join([f"| {head} |", "|---" * (head.count("|") + 1) + "|", *lines])


def _made(report: Report, step: StepResult) -> str:
    return f"`{RESULTS.relative_to(ROOT).as_posix()}`, {step.date or report.machine.date.partition(' ')[0]}"


def _us(us: float) -> str:
    return f"{us:.0f} µs" if us >= 100 else f"{us:.3g} µs"


def _ms(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def written(page: str, report: Report) -> str:
    """The page with the tables as they are to be."""
    before, rest = page.split(BEGIN)
    made = section(report)
    return (
        f"{before}{BEGIN}\n{made}\n{END}{rest.split(END)[1]}" if made else f"{before}{BEGIN}{END}{rest.split(END)[1]}"
    )


def results() -> Report:
    return msgspec.json.decode(RESULTS.read_bytes(), type=Report)


def main() -> None:
    report = results()
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), report), encoding="utf-8")
    for step in report.steps:
        if step.step == "serving" and (found := serving.served(step)):
            serving.draw(found, PICTURE)


if __name__ == "__main__":
    main()
