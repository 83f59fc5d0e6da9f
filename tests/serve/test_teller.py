"""What the engine tells of tokens reaches each request as text, in order and whole."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from seqexport.runtimes.serve.answer import Answer
from seqexport.runtimes.serve.jobs import Job
from seqexport.runtimes.serve.requests import End, Event, Failed, Piece, Request, Usage
from seqexport.runtimes.serve.teller import PIECE_SECONDS, Teller
from seqexport.runtimes.tokenizer import BundleTokenizer

END = End("length", Usage(1, 0, 3))


class Listener:
    """A request, and what it was told."""

    def __init__(self, tokenizer: BundleTokenizer, key: int = 0) -> None:
        self.events: list[Event] = []
        self.ended = threading.Event()
        request = Request([65])
        self.job = Job(key, request, self._take, Answer(request, tokenizer.stream(), (), 99))

    def _take(self, event: Event) -> None:
        self.events.append(event)
        if not isinstance(event, Piece):
            self.ended.set()

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, Piece))


def test_tokens_become_text_and_an_end_brings_the_rest(tokenizer: BundleTokenizer) -> None:
    one, other = Listener(tokenizer), Listener(tokenizer, 1)
    with Teller(tokenizer) as teller:
        for token in "é".encode():
            teller.tell([(one.job, token), (other.job, 65)])
        teller.tell([(one.job, 0xE2), (one.job, END), (other.job, Piece("!")), (other.job, END)])
        assert one.ended.wait(60) and other.ended.wait(60)
    assert (one.text, other.text) == ("é\N{REPLACEMENT CHARACTER}", "AA!")
    assert one.events[-1] == other.events[-1] == END


def test_what_comes_while_it_speaks_is_one_piece(tokenizer: BundleTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    listener, others = Listener(tokenizer), [Listener(tokenizer, key) for key in range(1, 100)]
    first = threading.Event()
    push = tokenizer.push

    def pushed(*given: Any) -> Any:
        first.set()
        return push(*given)

    monkeypatch.setattr(tokenizer, "push", pushed)
    with Teller(tokenizer) as teller:
        teller.tell([(each.job, 66) for each in (listener, *others)])
        assert first.wait(60)
        for token in b"CDEF":  # within the hundred pieces' time
            teller.tell([(listener.job, token)])
        teller.tell([(listener.job, END)])
    assert listener.text == "BCDEF"
    assert len(listener.events) == 3
    assert PIECE_SECONDS > 0


def test_closing_hands_out_all_that_was_told(tokenizer: BundleTokenizer) -> None:
    listener = Listener(tokenizer)
    teller = Teller(tokenizer)
    teller.tell([(listener.job, token) for token in b"all of it"])
    teller.close()
    assert listener.text == "all of it"


@pytest.mark.parametrize("at", ["decode_batch", "finish"])
def test_tokens_that_cannot_be_decoded_fail_their_own_request(
    tokenizer: BundleTokenizer, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    bad, good = Listener(tokenizer), Listener(tokenizer, 1)

    class Broken:
        """A tokenizer that cannot decode an X."""

        def __getattr__(self, name: str) -> Any:
            return getattr(whole, name)

        def decode(self, tokens: list[int], **options: Any) -> str:
            if 88 in tokens:
                raise ValueError("no X")
            return str(whole.decode(tokens, **options))

        def decode_batch(self, sequences: list[list[int]], **options: Any) -> list[str]:
            return [self.decode(tokens, **options) for tokens in sequences]

    whole: Any = tokenizer._tokenizer
    monkeypatch.setattr(tokenizer, "_tokenizer", Broken())
    monkeypatch.setattr(bad.job.answer.text.stream, "_tokenizer", Broken())
    with Teller(tokenizer) as teller:
        if at == "decode_batch":
            teller.tell([(bad.job, 88), (good.job, 65), (bad.job, END), (good.job, END)])
        else:
            bad.job.answer.text.stream.tokens.append(88)
            teller.tell([(bad.job, END), (good.job, 65), (good.job, END)])
    assert isinstance(bad.events[0], Failed) and "no X" in bad.events[0].message
    assert bad.job.cancelled and len(bad.events) == 1
    assert good.text == "A" and good.events[-1] == END
