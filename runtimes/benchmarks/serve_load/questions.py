"""What is asked, and what the library answers to it alone: made before the load, so that comparing costs nothing."""

from __future__ import annotations

import random
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from seqexport.runtimes.base import Floats, Runner, Session
from seqexport.runtimes.sampling import Sampling
from seqexport.runtimes.tokenizer import BundleTokenizer

TEXT = (
    "The state of a sequence is all that a model remembers of it; import os\nclass Session(Closing):\n    def read("
    "self, row: int) -> Snapshot:\n        Returns the naïve value of é, ü and 漢字 — if there is one.\n"
) * 2
LENGTHS = (1, 2, 3, 5, 8, 12, 20, 30, 70, 150)
LONG = 96
"""Tokens of an answer whose reader is slow."""


@dataclass(frozen=True)
class Said:
    """One choice: its text, why it ended, its tokens, and their log probabilities where they were asked for."""

    text: str
    reason: str
    tokens: int
    logprobs: tuple[float, ...] | None


@dataclass(frozen=True)
class Question:
    """The fields of a request, without the model's name, and each choice of its answer."""

    fields: dict[str, Any]
    prompt_tokens: int
    said: tuple[Said, ...]


class Questions:
    """Drawn with a seed.

    Attributes:
        single: one prompt or several, one choice or several.
        long: one prompt, and a long answer.
        talks: turns of a session, each after the one before it.
    """

    def __init__(self, runner: Runner, seed: int, count: int) -> None:
        """``count``: of single ones; a tenth as many are long, and a fifth are talks."""
        self._runner, self._tokenizer = runner, BundleTokenizer(runner.bundle)
        self._drawn = random.Random(seed)
        self.single = [self._question() for _ in range(count)]
        self.long = [self._question(LONG) for _ in range(max(1, count // 10))]
        self.talks = [self._talk() for _ in range(max(1, count // 5))]

    def _question(self, most: int | None = None) -> Question:
        drawn = self._drawn
        several = most is None and drawn.random() < 0.1
        prompts = [self._prompt() for _ in range(drawn.randint(2, 3) if several else 1)]
        fields = self._fields(most) | {"n": drawn.choice([1, 2]) if several else 1}
        given = [self._tokenizer.encode(prompt) for prompt in prompts]
        if drawn.random() < 0.2 and most is None:
            fields["stop"] = self._stop(given[0], fields)
        said = [self._alone(tokens, fields, choice) for tokens in given for choice in range(fields["n"])]
        sent: list[Any] = given if drawn.random() < 0.2 else [*prompts]
        fields["prompt"] = sent if several else sent[0]
        return Question(fields, sum(map(len, given)), tuple(said))

    def _talk(self) -> list[Question]:
        turns = []
        with self._runner.session(1) as session:
            for number in range(self._drawn.randint(2, 3)):
                prompt = "" if number and self._drawn.random() < 0.3 else self._prompt()
                fields = self._fields(None) | {"prompt": prompt}
                tokens = self._tokenizer.encode(prompt, special_tokens=not number) if prompt else []
                turns.append(Question(fields, len(tokens), (self._continued(session, tokens, fields),)))
        return turns

    def _prompt(self) -> str:
        start = self._drawn.randrange(len(TEXT) // 2)
        return TEXT[start : start + self._drawn.choice(LENGTHS)]

    def _fields(self, most: int | None) -> dict[str, Any]:
        drawn = self._drawn
        fields: dict[str, Any] = {"max_tokens": most or drawn.choice([1, 2, 3, 4, 6, 8, 12]), "temperature": 0}
        if drawn.random() < 0.6:
            fields |= {
                "temperature": drawn.choice([0.7, 1.0]),
                "top_k": 40,
                "top_p": 0.95,
                "seed": drawn.getrandbits(32),
            }
        if drawn.random() < 0.15:
            fields["logprobs"] = drawn.choice([0, 3])
        return fields

    def _stop(self, tokens: list[int], fields: dict[str, Any]) -> str | list[str]:
        """Two characters of the answer, or what does not come in it."""
        text = self._alone(tokens, fields, 0).text
        return [text[1:3], "never so"] if len(text) > 2 else "never so"

    def _alone(self, tokens: list[int], fields: dict[str, Any], choice: int) -> Said:
        with self._runner.session(1) as session:
            return self._continued(session, tokens, fields, choice)

    def _continued(self, session: Session, tokens: list[int], fields: dict[str, Any], choice: int = 0) -> Said:
        if tokens:
            session.prefill(np.array([tokens]))
        stream = self._tokenizer.stream(after=session.recent[session.recent >= 0].tolist())
        stops = [fields["stop"]] if isinstance(fields.get("stop"), str) else fields.get("stop", [])
        text, logprobs, stopped = "", list[float](), False
        with closing(session.generate(fields["max_tokens"], _sampling(fields, choice))) as generated:  # type: ignore[type-var]
            for (token,) in generated:
                logprobs.append(_logprob(session.logits[0], int(token)))
                text += stream.push(int(token))
                if stopped := any(stop in text for stop in stops):
                    break
        if not stopped:
            text += stream.finish()
        ended = any(stop in text for stop in stops) or len(logprobs) < fields["max_tokens"]
        cut = min((text.index(stop) for stop in stops if stop in text), default=len(text))
        told = tuple(logprobs) if "logprobs" in fields else None
        return Said(text[:cut], "stop" if ended else "length", len(logprobs), told)


def _sampling(fields: dict[str, Any], choice: int) -> Sampling:
    return Sampling(
        fields["temperature"], fields.get("top_k", 0), fields.get("top_p", 1.0), fields.get("seed", 0) + choice
    )


def _logprob(logits: Floats, token: int) -> float:
    shifted = logits.astype(np.float64) - logits.max()
    return float(shifted[token] - np.log(np.exp(shifted).sum()))
