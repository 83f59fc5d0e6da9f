"""The report: what it says is what the numbers say, and the page needs nothing but itself."""

from __future__ import annotations

import io
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest
from matplotlib.figure import Figure
from rich.console import Console

from seqexport.plugins.errors import UserError
from seqexport.runtimes import units
from seqexport.runtimes.comparison import plots, report
from seqexport.runtimes.comparison.accuracy import Accuracy, StateError, StepError, checks
from seqexport.runtimes.comparison.compare import BackendResult, BundleResult, CompareOptions, Comparison, StateSize
from seqexport.runtimes.comparison.measure import Point
from seqexport.runtimes.comparison.verdict import crossings, sentence, verdicts
from seqexport.runtimes.machine import this_machine
from seqexport.runtimes.output import write_json

LENGTHS = (64, 256, 1024, 4096)
VOID = {"meta", "br", "path", "use"}


def errors(scale: float | None) -> Accuracy:
    value = None if scale is None else 1e-7 * scale
    steps = tuple(StepError(step, value) for step in (1, 10, 100, 1000))
    return Accuracy(value, 1e-6, value, 1e-6, steps, (StateError("key", 0, value),), 0.99999, 1.5)


def points(first: float, power: float, **changes: Any) -> tuple[Point, ...]:
    """Prefill times that are ``first`` seconds at 64 tokens and grow with a power of the length."""
    return tuple(Point(1, n, first * (n / 64) ** power, 3, 1e-3, 16, 64 * n, 1 << 20, **changes) for n in LENGTHS)


def bundle(family: str, times: dict[str, tuple[Point, ...]], scale: float | None = 0.8) -> BundleResult:
    own = errors(1)
    results = tuple(
        BackendResult(name, f"{name} 1.0", own if name == "torch" else errors(scale), points=each)
        if name == "torch"
        else BackendResult(name, f"{name} 1.0", errors(scale), checks(errors(scale), own, "float32"), each)
        for name, each in times.items()
    )
    sizes = tuple(StateSize(n, 1000 if family == "mamba" else 64 * n) for n in LENGTHS)
    return BundleResult(
        f"a-{family}",
        family,
        family,
        "float32",
        "ort",
        123456,
        4096,
        sizes,
        results,
        own,
        1.5,
        None,
        "text",
        2,
        5,
        1000,
    )


def comparison(*bundles: BundleResult) -> Comparison:
    return Comparison(1, this_machine(), CompareOptions(), bundles)


def both(linear: float, quadratic: float, scale: float | None = 0.8) -> Comparison:
    """Both families on both backends; ``linear`` and ``quadratic`` are seconds at 64 tokens."""
    mamba = {"torch": points(10 * linear, 1), "ort": points(linear, 1)}
    transformer = {"torch": points(quadratic, 2), "ort": points(quadratic, 2)}
    return comparison(bundle("mamba", mamba, scale), bundle("transformer", transformer, scale))


class Page(HTMLParser):
    """Collects tags and text, and checks that tags nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize(
    ("linear", "quadratic", "where", "tokens"),
    [
        (16e-3, 1e-3, "inside", 1024.0),
        (8e-3, 1e-3, "inside", 512.0),
        (1e-3, 2e-3, "always", None),
        (128e-3, 1e-3, "beyond", 8192.0),
        (1e3, 1e-3, "never", None),
    ],
)
def test_where_the_curves_cross(linear: float, quadratic: float, where: str, tokens: float | None) -> None:
    crossing = crossings(both(linear, quadratic))[1]
    assert (crossing.backend, crossing.where) == ("ort", where)
    assert crossing.tokens == (None if tokens is None else pytest.approx(tokens))
    if where == "inside":
        assert crossing.seconds == pytest.approx(linear * (crossing.tokens or 0) / 64)
    said = {"inside": "inside the measured", "beyond": "outside the measured", "never": "no crossing"}
    assert said.get(where, "at every shorter length") in sentence(crossing)
    assert "4,096" in sentence(crossing) or where == "inside"


def test_four_bundles_have_colours_and_names_of_their_own() -> None:
    kinds = {"mamba": 1, "mamba2": 1, "transformer": 2, "hybrid": 2}
    made = []
    for name, power in kinds.items():
        times = {backend: points(1e-3, power) for backend in ("torch", "ort")}
        made.append(msgspec.structs.replace(bundle("mamba" if power == 1 else "transformer", times), name=name))
    four = comparison(*made)
    assert all(" (mamba beside transformer)" in sentence(crossing) for crossing in crossings(four))
    html = report.render(four)
    assert "<title>mamba, mamba2, transformer and hybrid beside PyTorch</title>" in html
    for number in range(1, 5):
        assert f"stroke: var(--model-{number})" in html
        assert f".model:nth-child({number})" in html
    Page(html)


def test_the_verdict_follows_the_checks() -> None:
    good = verdicts(both(1e-3, 1e-3))[0]
    assert good.good
    assert good.text == "ONNX Runtime gives the same answers: its error is 0.8× PyTorch’s own."
    bad = verdicts(both(1e-3, 1e-3, scale=3.0))[0]
    assert bad.good is False
    assert "does not give the same answers" in bad.text
    assert "(6 of 6 checks failed)" in bad.text
    broken = verdicts(both(1e-3, 1e-3, scale=None))[0]
    assert broken.good is False
    assert "not finite" in broken.text


def test_the_verdict_compares_speed_at_the_longest_common_length() -> None:
    text = "\n".join(verdict.text for verdict in verdicts(both(1e-3, 1e-3)))
    assert "after 4,096 tokens" in text
    assert "10× faster" in text


def test_one_bundle_alone() -> None:
    alone = comparison(bundle("mamba", {"torch": points(1e-2, 1), "ort": points(1e-3, 1)}))
    assert crossings(alone) == []
    assert "a-mamba" in Page(report.render(alone)).text


@pytest.mark.parametrize("scale", [0.8, 3.0, None])
def test_the_page_needs_nothing_else(scale: float | None) -> None:
    html = report.render(both(16e-3, 1e-3, scale))
    page = Page(html)
    assert len(html.encode()) < 1 << 20
    assert "script" not in {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href", "action", "srcset"):
                assert value is not None
                assert value.startswith("#")
    assert not re.search(r"@import|url\((?!#)", html)
    assert sum(tag == "svg" for tag, _ in page.tags) == 5
    assert not re.search(r"#0[0-9]0[0-9]0[0-9]\b", html), "a stand-in colour was left"
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    for verdict in verdicts(both(16e-3, 1e-3, scale)):
        assert verdict.text in page.text
    assert ("✗" in page.text) == (scale != 0.8)
    assert "ONNX Runtime crosses" in page.text


@pytest.mark.parametrize(("linear", "tokens", "side"), [(4e-3, "260", "left"), (48e-3, "3,100", "right")])
def test_a_crossing_is_named_to_its_right_where_it_fits(
    linear: float, tokens: str, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    axes = Figure(figsize=plots.SIZE).add_subplot()
    monkeypatch.setattr(plots, "_svg", lambda label, draw: draw(axes))
    plots.prefill(both(linear, 1e-3))
    label = next(text for text in axes.texts if text.get_text().startswith("ONNX Runtime crosses"))
    assert tokens in label.get_text()
    assert label.get_horizontalalignment() == side


def test_the_page_without_accuracy_or_speed() -> None:
    empty = BundleResult(
        "b",
        "mamba",
        "mamba",
        "float32",
        "ort",
        1,
        None,
        (StateSize(64, 10),),
        (BackendResult("trt", error="no <GPU>"),),
    )
    page = Page(report.render(comparison(empty)))
    assert "TensorRT could not run" in page.text
    assert "no <GPU>" in page.text


def test_skipped_sizes_say_why() -> None:
    skipped = bundle("mamba", {"torch": (*points(1e-3, 1)[:2], Point(1, 9999, skipped="would take 90 s or more"))})
    assert "would take 90 s or more" in Page(report.render(comparison(skipped))).text


def test_json_comes_back_as_it_was(tmp_path: Path) -> None:
    before = both(1e-3, 1e-3, None)
    write_json(tmp_path / "report.json", before)
    assert msgspec.json.decode((tmp_path / "report.json").read_bytes(), type=Comparison) == before


def test_a_page_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^.*: cannot be written \(Is a directory\)$"):
        report.write_html(both(1e-3, 1e-3), tmp_path)


def test_the_table_has_a_line_for_each_backend() -> None:
    stream = io.StringIO()
    report.print_table(both(16e-3, 1e-3), Console(file=stream, width=120))
    text = stream.getvalue()
    assert text.count("ONNX Runtime  ✓") == 2
    assert "a-transformer" in text
    assert "gives the same answers" in text


def test_names_the_extra_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(UserError, match=r"pip install 'seqexport\[report\]'"):
        report.render(both(1e-3, 1e-3))


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (units.parameters(1892), "1,892 parameters"),
        (units.parameters(129_300_000), "129.3 M parameters"),
        (units.seconds(1.234), "1.23 s"),
        (units.seconds(0.0123), "12.3 ms"),
        (units.seconds(4.5e-6), "4.50 µs"),
        (units.size(512), "512 B"),
        (units.size(2 * 1024**2), "2.00 MiB"),
        (units.rate(12345.6), "12,300 tok/s"),
        (units.error(3.26e-7), "3.3 × 10⁻⁷"),
        (units.error(9.96e-7), "1.0 × 10⁻⁶"),
        (units.error(0.0), "0"),
        (units.error(None), "not finite"),
        (units.ratio(0.81), "0.81×"),
        (units.ratio(14.2), "14×"),
        (units.ratio(12345), "12,000×"),
        (units.percent(0.99999), "99.99%"),
        (units.percent(1.0), "100%"),
        (units.about(3842), "3,800"),
    ],
)
def test_numbers_as_people_read_them(written: str, expected: str) -> None:
    assert written.replace(units.THIN, " ") == expected
