"""Stop texts in pieces of any size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqexport.runtimes.serve.stops import StopText

ab = st.text(alphabet="ab", max_size=12)


def pushed(stops: list[str], pieces: list[str]) -> tuple[list[str], bool]:
    stop = StopText(stops)
    return [*(stop.push(piece) for piece in pieces), stop.finish()], stop.stopped


@given(st.lists(st.text(alphabet="ab", min_size=1, max_size=4), max_size=3), st.lists(ab, max_size=6))
def test_text_ends_before_the_first_that_is_complete(stops: list[str], pieces: list[str]) -> None:
    given, stopped = pushed(stops, pieces)
    whole = "".join(pieces)
    assert stopped == any(stop in whole for stop in stops)
    assert whole.startswith("".join(given))
    if stopped:
        assert any(whole[len("".join(given)) :].startswith(stop) for stop in stops)
    else:
        assert "".join(given) == whole


@pytest.mark.parametrize(
    ("pieces", "given"),
    [
        (["one", "\n", "\nUser:"], ["one", "", "", ""]),
        (["one\n", "two"], ["one", "\ntwo", ""]),
        (["one\n"], ["one", "\n"]),
        (["a", "b", "\n\n", "c"], ["a", "b", "", "", ""]),
    ],
)
def test_text_is_held_back_only_while_a_stop_may_begin(pieces: list[str], given: list[str]) -> None:
    assert pushed(["\n\n", "###"], pieces)[0] == given
