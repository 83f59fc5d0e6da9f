"""What clients send, as OpenAI's clients send it. A field that is not here is refused by name."""

from __future__ import annotations

import secrets
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from seqexport.runtimes.sampling import Sampling

MOST_CHOICES = 128
Neutral = Literal[0] | None
Stop = Annotated[str, Field(min_length=1, max_length=256)]
Tokens = Annotated[list[int], Field(min_length=1)]
Several = Field(min_length=1, max_length=MOST_CHOICES)


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class StreamOptions(Body):
    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class Asking(Body):
    """What a completion and a chat have in common. Of penalties and biases only the neutral values are taken."""

    model: str
    temperature: Annotated[float, Field(ge=0, le=100)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0, le=2**31)] = 0
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] = 1
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    presence_penalty: Neutral = None
    frequency_penalty: Neutral = None
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = None
    user: str | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def includes_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def samplings(self) -> list[Sampling]:
        """One for each of ``n`` choices, seeds one after another; random without a seed."""
        first = secrets.randbelow(2**63) if self.seed is None else self.seed
        return [Sampling(self.temperature, self.top_k, self.top_p, first + index) for index in range(self.n)]


class CompletionBody(Asking):
    """Of ``/v1/completions``."""

    prompt: str | Annotated[list[str], Several] | Tokens | Annotated[list[Tokens], Several]
    max_tokens: Annotated[int, Field(ge=1, le=2**31)] | None = 16
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    session_id: Annotated[str, Field(max_length=64)] | None = None
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None


class Part(Body):
    type: Literal["text"]
    text: str


class ChatMessage(Body):
    role: Annotated[str, Field(max_length=64)]
    content: str | list[Part]
    name: Annotated[str, Field(max_length=256)] | None = None

    def plain(self) -> dict[str, str]:
        """As chat templates take it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": self.role, "content": text} | ({} if self.name is None else {"name": self.name})


class ChatBody(Asking):
    """Of ``/v1/chat/completions``."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=4096)]
    max_tokens: Annotated[int, Field(ge=1, le=2**31)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=2**31)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @property
    def most(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def told(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None
