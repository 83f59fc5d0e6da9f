"""The page in Chromium, on a wide window and on a telephone's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seqexport.runtimes.model import Model
from seqexport.runtimes.ort.runner import OrtRunner
from seqexport.runtimes.serve.batch import Batch
from tests.conftest import Exported
from tests.serve import chromium
from tests.serve.conftest import LIMITS
from tests.serve.served import KEY, Served, served

PROMPT = "The state of a"
ANSWER = "document.querySelector('.turn.answer span')"
SENDS = "document.querySelector('#go').textContent === 'Send'"


@pytest.fixture
def site(exported: Exported) -> Iterator[Served]:
    with served(exported("preset:mamba", target="ort", dtype="float32", logits="last"), LIMITS) as found:
        yield found


@pytest.fixture
def after_five(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The engine waits for it before its sixth step."""
    step, goes_on, steps = Batch.step, threading.Event(), list[None]()

    def held(batch: Batch, fed: Any) -> None:
        steps.append(None)
        if len(steps) > 5:
            goes_on.wait(60)
        step(batch, fed)

    monkeypatch.setattr(Batch, "step", held)
    yield goes_on
    goes_on.set()


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (360, 640)])
def test_a_prompt_is_answered_as_it_is_made(
    width: int, height: int, site: Served, after_five: threading.Event, runner: OrtRunner, tmp_path: Path
) -> None:
    expected = Model(runner).generate(PROMPT, max_new_tokens=24)[0]
    with chromium.opened(tmp_path) as page:
        page.open(site.url, width, height)
        page.wait_for(f"document.title === {site.model!r}")
        page.value("document.querySelector('#most').value = 24; document.querySelector('#temperature').value = 0")
        page.type(PROMPT, "#prompt")
        page.press_enter()
        page.wait_for("document.querySelector('.turn.error') && !document.querySelector('#with-key').hidden")
        page.type(KEY, "#key")
        page.type("", "#prompt")
        page.press_enter()
        page.wait_for(f"{ANSWER} && {ANSWER}.textContent.length >= 5")
        shown = page.value(f"{ANSWER}.textContent")
        assert expected.startswith(shown) and len(shown) < len(expected) and not page.value(SENDS)
        after_five.set()
        page.wait_for(SENDS)
        assert page.value(f"{ANSWER}.textContent") == expected
        assert "24 tokens · " in page.value("document.querySelector('#numbers').textContent")
        assert page.value("document.documentElement.scrollWidth") <= width
        box = page.value(
            "(({right, bottom}) => [right, bottom])(document.querySelector('#go').getBoundingClientRect())"
        )
        assert box[0] <= width and box[1] <= height
