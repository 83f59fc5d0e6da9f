"""``seqexport onnx --module``, and the other commands on its bundle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from seqexport.runtimes.bundle import open_bundle
from tests.cli.conftest import Run, contents
from tests.exporter.modules import plain

HOME = "tests.exporter.modules.plain"
ASKED = (
    *("--input", "x=1x3x6x8", "--input", "h=1x8"),
    *("--dynamic", "x=batch,3,height,width", "--dynamic", "h=batch,8", "--state", "h=h_after"),
)


def test_a_module_in_the_current_folder_from_export_to_page(run: Run, work: Path) -> None:
    source = "from tests.exporter.modules.plain import Filter\n\ndef make():\n    return Filter()\n"
    Path("shelf.py").write_text(source)
    save_file(plain.Filter(7).state_dict(), "w.safetensors")
    done = run("onnx", "--module", "shelf:make", "--weights", "w.safetensors", *ASKED)
    assert (done.code, done.err) == (0, ""), done
    assert "2 checks: at most" in done.out and done.out.endswith("next: seqexport verify make\n")
    bundle = open_bundle(work / "make")
    assert bundle.manifest.source.model == "factory:shelf:make"
    shown = run("inspect", "make")
    assert (shown.code, shown.err) == (0, "") and "h_after" in shown.out and "any module" in shown.out
    checks = json.loads(run("verify", "make", "--json").out)
    assert [check["name"] for check in checks] == ["scores", "h_after"]
    timed = run("bench", "make", "--axis", "batch=1,2", "--repeats", "2", "--budget", "1", "-o", "bench.json")
    assert timed.code == 0 and [p["sizes"] for p in json.loads(Path("bench.json").read_text())["points"]] == [
        "batch 1, height 6, width 8",
        "batch 2, height 6, width 8",
    ]
    page = run("compare", "make", "--quick", "-o", "page.html")
    assert page.code == 0 and "ONNX Runtime" in Path("page.html").read_text()
    original = ("--original", "shelf:make")
    both = run("compare", "make", "--quick", *original, "--weights", "w.safetensors", "-o", "page.html")
    assert both.code == 0 and "PyTorch" in Path("page.html").read_text()
    other = run("compare", "make", "--quick", *original)
    assert other.code == 1 and "its weights are not those that" in other.out and "--weights" in other.out


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "no name": (("--module", "plain", *ASKED), "--module 'plain': expected package.module:factory"),
    "no package": (("--module", "nowhere.at:all", *ASKED), "--module nowhere.at:all: there is no nowhere in "),
    "no factory": (("--module", f"{HOME}:mako", *ASKED), f"--module {HOME}:mako: {HOME} has no mako; there is make"),
    "raises": (
        ("--module", f"{HOME}:raises", *ASKED),
        f"--module {HOME}:raises: the factory raised ValueError: no configuration of this name: tiny",
    ),
    "ends": (("--module", f"{HOME}:ends", *ASKED), f"--module {HOME}:ends: the factory raised SystemExit: 5"),
    "no module": (
        ("--module", f"{HOME}:number", *ASKED),
        f"--module {HOME}:number: it gives a int; expected a torch.nn.Module",
    ),
    "no input": (("--module", f"{HOME}:make"), "--module: give an example of each input"),
    "input": (
        ("--module", f"{HOME}:make", "--input", "x=1x3xa"),
        "--input x=1x3xa: expected sizes and perhaps a dtype",
    ),
    "input's dtype": (("--module", f"{HOME}:make", "--input", "x=1:f64"), "--input x=1:f64: expected sizes"),
    "input's name": (("--module", f"{HOME}:make", "--input", "1x3"), "--input '1x3': expected NAME=VALUE"),
    "input twice": (
        ("--module", f"{HOME}:make", "--input", "x=1", "--input", "x=2"),
        "--input 'x=2': expected NAME=VALUE, each name once; it is given twice",
    ),
    "huge": (("--module", f"{HOME}:make", "--input", "x=99999x99999x9"), "give a smaller example"),
    "axes": (
        ("--module", f"{HOME}:make", *ASKED[:4], "--dynamic", "x=batch,3"),
        "axes of x: 2 are named, and its example is [1, 3, 6, 8]",
    ),
    "axis": (
        ("--module", f"{HOME}:make", *ASKED[:4], "--dynamic", "x=b-1"),
        "--dynamic x=b-1: expected names and sizes",
    ),
    "state": (("--module", f"{HOME}:make", *ASKED[:4], "--state", "h"), "--state 'h': expected NAME=VALUE"),
    "no such state": (
        ("--module", f"{HOME}:make", *ASKED[:4], "--state", "h=g"),
        "state h: no output g after the call; there are scores, h_after",
    ),
    "both": (("--module", f"{HOME}:make", "--model", "m"), "--model and --module exclude each other"),
    "without": (("--input", "x=1"), "--input is of any module, which --module names"),
    "pickles": (
        ("--module", f"{HOME}:make", *ASKED, "--weights", "w.pt"),
        "--weights w.pt: expected a .safetensors file; others can run code when they are read",
    ),
    "no file": (
        ("--module", f"{HOME}:make", *ASKED, "--weights", "w.safetensors"),
        "--weights w.safetensors: cannot be read (No such file or directory",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_line_and_nothing_is_written(case: str, run: Run, work: Path) -> None:
    asked, expected = REFUSED[case]
    refusal = run("onnx", *asked, "-o", "new/out").refusal
    assert expected in refusal
    assert contents(work) == {}


WEIGHTS = {
    "lacks": (lambda state: state.pop("head.bias"), "w.safetensors lacks head.bias, which Filter has"),
    "too much": (lambda state: state.update(more=torch.zeros(1)), "w.safetensors has more, which Filter has not"),
    "shape": (
        lambda state: state.update({"head.bias": torch.zeros(3)}),
        "w.safetensors: head.bias has the shape [3]; Filter expects [5]",
    ),
    "not finite": (lambda state: state["head.bias"].fill_(float("nan")), "head.bias is not finite"),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights_of_another_module(case: str, run: Run, work: Path) -> None:
    change, expected = WEIGHTS[case]
    state = plain.Filter().state_dict()
    change(state)
    save_file(state, "w.safetensors")
    before = contents(work)
    weights = ("--weights", "w.safetensors")
    assert expected in run("onnx", "--module", f"{HOME}:make", *ASKED, *weights, "-o", "out").refusal
    assert contents(work) == before


def test_a_file_of_half_a_header(run: Run, work: Path) -> None:
    Path("w.safetensors").write_bytes(b"12345678{")
    refusal = run("onnx", "--module", f"{HOME}:make", *ASKED, "--weights", "w.safetensors", "-o", "out").refusal
    assert "--weights w.safetensors: not a whole safetensors file" in refusal
