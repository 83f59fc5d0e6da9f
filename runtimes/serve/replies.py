"""Answers in OpenAI's form: objects of a whole answer, and chunks of a stream."""

from __future__ import annotations

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from seqexport.runtimes.serve.requests import Chosen, Usage
from seqexport.runtimes.tokenizer import BundleTokenizer

UNREADABLE = "\N{REPLACEMENT CHARACTER}"


@dataclass
class Choice:
    """What there is of one choice: text, its tokens where log probabilities were asked for, and its end."""

    text: str = ""
    chosen: list[Chosen] = field(default_factory=list)
    reason: str | None = None
    usage: Usage | None = None


class Reply(ABC):
    """How one request is answered.

    Args:
        model: the name of the model.
        logprobs: whether log probabilities were asked for.
    """

    prefix: ClassVar[str]
    kind: ClassVar[str]
    chunk_kind: ClassVar[str]

    def __init__(self, model: str, tokenizer: BundleTokenizer, *, logprobs: bool) -> None:
        self._tokenizer, self._logprobs = tokenizer, logprobs
        self.id = f"{self.prefix}-{secrets.token_hex(12)}"
        self._head = {"id": self.id, "created": int(time.time()), "model": model}

    def whole(self, choices: Sequence[Choice], usage: dict[str, Any]) -> dict[str, Any]:
        """The answer as one object."""
        found = [self._choice(index, choice) for index, choice in enumerate(choices)]
        return {**self._head, "object": self.kind, "choices": found, "usage": usage}

    def chunk(self, index: int, choice: Choice, *, usage: bool) -> dict[str, Any]:
        """New text of one choice, or its end. ``usage``: whether one comes at the end, and is null until then."""
        return self._chunk([self._part(index, choice)]) | ({"usage": None} if usage else {})

    def last_chunk(self, usage: dict[str, Any]) -> dict[str, Any]:
        """No choices, and the usage of all."""
        return self._chunk([]) | {"usage": usage}

    def first_chunks(self, choices: int, *, usage: bool) -> list[dict[str, Any]]:
        """What comes before any text."""
        return []

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head, "object": self.chunk_kind, "choices": choices}

    @abstractmethod
    def _choice(self, index: int, choice: Choice) -> dict[str, Any]:
        """A choice of a whole answer."""

    @abstractmethod
    def _part(self, index: int, choice: Choice) -> dict[str, Any]:
        """A choice of a chunk."""

    def _text(self, token: int) -> str:
        return self._tokenizer.decode([token])


class CompletionReply(Reply):
    """Of ``/v1/completions``."""

    prefix, kind, chunk_kind = "cmpl", "text_completion", "text_completion"

    def __init__(self, model: str, tokenizer: BundleTokenizer, *, logprobs: bool) -> None:
        super().__init__(model, tokenizer, logprobs=logprobs)
        self._offsets: dict[int, int] = {}

    def _choice(self, index: int, choice: Choice) -> dict[str, Any]:
        logprobs = self._told(index, choice.chosen) if self._logprobs else None
        return {"index": index, "text": choice.text, "logprobs": logprobs, "finish_reason": choice.reason}

    _part = _choice

    def _told(self, index: int, chosen: Sequence[Chosen]) -> dict[str, Any]:
        texts = [self._text(each.token) for each in chosen]
        offsets = []
        for text in texts:
            offsets.append(self._offsets.get(index, 0))
            self._offsets[index] = offsets[-1] + len(text)
        return {
            "tokens": texts,
            "token_logprobs": [each.logprob for each in chosen],
            "top_logprobs": [{self._text(token): value for token, value in reversed(each.top)} for each in chosen],
            "text_offset": offsets,
        }


class ChatReply(Reply):
    """Of ``/v1/chat/completions``."""

    prefix, kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def first_chunks(self, choices: int, *, usage: bool) -> list[dict[str, Any]]:
        role = {"delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        null = {"usage": None} if usage else {}
        return [self._chunk([{"index": index, **role}]) | null for index in range(choices)]

    def _choice(self, index: int, choice: Choice) -> dict[str, Any]:
        message = {"role": "assistant", "content": choice.text, "refusal": None}
        return self._about(index, choice) | {"message": message}

    def _part(self, index: int, choice: Choice) -> dict[str, Any]:
        return self._about(index, choice) | {"delta": {"content": choice.text} if choice.text else {}}

    def _about(self, index: int, choice: Choice) -> dict[str, Any]:
        told = {"content": [self._told(each) for each in choice.chosen]} if self._logprobs else None
        return {"index": index, "logprobs": told, "finish_reason": choice.reason}

    def _told(self, chosen: Chosen) -> dict[str, Any]:
        top = [self._one(token, value) for token, value in chosen.top]
        return self._one(chosen.token, chosen.logprob) | {"top_logprobs": top}

    def _one(self, token: int, logprob: float) -> dict[str, Any]:
        """A token, and its bytes, where its text alone is whole characters."""
        text = self._text(token)
        return {"token": text, "logprob": logprob, "bytes": None if UNREADABLE in text else list(text.encode())}


def usage_object(usages: Sequence[tuple[int, Usage]], choices_of_a_prompt: int) -> dict[str, Any]:
    """Of all choices by index; a prompt counts once for all of its choices."""
    prompts = [usage for index, usage in usages if index % choices_of_a_prompt == 0]
    read, made = sum(each.prompt for each in prompts), sum(usage.answer for _, usage in usages)
    reused = sum(each.reused for each in prompts)
    return {
        "prompt_tokens": read,
        "completion_tokens": made,
        "total_tokens": read + made,
        "prompt_tokens_details": {"cached_tokens": reused},
    }
