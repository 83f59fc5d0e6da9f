"""A bundle opened on a backend: text in, text out; or of any module, arrays in, arrays out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqexport.plugins.errors import UserError
from seqexport.runtimes.base import Runner, Session
from seqexport.runtimes.chat import Message, chat_prompt
from seqexport.runtimes.closing import Closing
from seqexport.runtimes.generate import new_tokens
from seqexport.runtimes.module import ModuleRunner
from seqexport.runtimes.sampling import Sampling
from seqexport.runtimes.tokenizer import BundleTokenizer, TextStream

MAX_NEW_TOKENS = 128


class Model(Closing):
    """A bundle opened on a backend; ``seqexport.load`` makes one. Close it, or use it in a ``with`` statement.

    Attributes:
        bundle: what was opened.
        tokenizer: the bundle's, to encode and decode text.
    """

    def __init__(self, runner: Runner | ModuleRunner) -> None:
        self._opened, self.bundle = runner, runner.bundle
        self._tokenizer: BundleTokenizer | None = None

    @property
    def description(self) -> str:
        """Backend, version, device, and what computes our ops."""
        return self._opened.description

    @property
    def _runner(self) -> Runner:
        if isinstance(self._opened, ModuleRunner):
            raise UserError(
                f"{self.bundle.path} is not a language model's: call it with arrays, model(name=array, ...)"
            )
        return self._opened

    def __call__(self, **inputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Run the bundle of any module once; nothing is kept from call to call.

        Args:
            inputs: an array for each input of the bundle, by name; bfloat16 as float32.

        Returns:
            Every output by its name; bfloat16 as float32.

        Raises:
            Error: an input is missing, unknown, or of another dtype or shape; or the bundle is a language model's.
        """
        return self._module(inputs)

    def carried(self, outputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The explicit states that a call of any module left, as inputs of the next one.

        Args:
            outputs: what the call gave.
        """
        return self._module.carried(outputs)

    @property
    def _module(self) -> ModuleRunner:
        if not isinstance(self._opened, ModuleRunner):
            raise UserError(f"{self.bundle.path} is a language model's: it takes text, or tokens in a session")
        return self._opened

    @property
    def tokenizer(self) -> BundleTokenizer:
        if self._tokenizer is None:
            self._tokenizer = BundleTokenizer(self._runner.bundle)
        return self._tokenizer

    def session(self, batch: int = 1, capacity: int | None = None) -> Session:
        """Empty states for ``batch`` sequences. Sessions share the model's weights.

        Args:
            capacity: the most tokens that a sequence may have; default: the bundle's capacity.
        """
        return self._runner.session(batch, capacity)

    def restore(self, path: str | os.PathLike[str], capacity: int | None = None) -> Session:
        """The session that ``Session.save`` wrote, here or on another machine or backend: it goes on token for token.

        Args:
            capacity: the most tokens that a sequence may have; default: the bundle's capacity.

        Raises:
            Error: the file cannot be read, is damaged, or was saved from another model or in another dtype.
        """
        return self._runner.restore(path, capacity)

    def stream(
        self,
        prompt: str,
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> Iterator[str]:
        """Continue a prompt, and give each piece of text as soon as it is whole characters.

        Args:
            prompt: the text to continue.
            max_new_tokens: stop after so many; an end-of-text token or a full cache stops sooner.
            temperature: 0 always takes the likeliest token.
            top_k: choose among the k likeliest; 0: all.
            top_p: choose among the likeliest that together reach this probability.
            seed: the same seed gives the same text.

        Raises:
            Error: the bundle has no tokenizer, the prompt is empty or longer than the capacity, an argument is out of
                range, or the model's answers are not finite.
        """
        sampling = Sampling(temperature, top_k, top_p, seed)
        ids = self.tokenizer.encode(prompt)
        return (piece for _, piece in self._pieces([ids], max_new_tokens, sampling))

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> list[str]:
        """Continue each prompt; several run as one batch, and each gives what it gives alone.

        To the bit with the op library, and in ONNX Runtime on one thread. On several threads ONNX Runtime rounds its
        own Softplus otherwise at the ends of each thread's share, so that with function bodies the last digits of a
        row depend on the others.

        The arguments are those of ``stream``.

        Returns:
            The new text of each prompt, without the prompt.
        """
        ids = [self.tokenizer.encode(each) for each in ([prompts] if isinstance(prompts, str) else prompts)]
        texts = ["" for _ in ids]
        for row, piece in self._pieces(ids, max_new_tokens, Sampling(temperature, top_k, top_p, seed)):
            texts[row] += piece
        return texts

    def chat(
        self,
        messages: Sequence[Message],
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> Iterator[str]:
        """The next message of a conversation, piece by piece, by the bundle's chat template.

        Args:
            messages: as in ``[{"role": "system", "content": "..."}, {"role": "user", "content": "..."}]``.

        The other arguments and the errors are those of ``stream``.

        Raises:
            Error: the bundle has no chat template, or it refuses the messages.
        """
        sampling = Sampling(temperature, top_k, top_p, seed)
        ids = self.tokenizer.encode(chat_prompt(self.bundle, messages), special_tokens=False)
        return (piece for _, piece in self._pieces([ids], max_new_tokens, sampling))

    def resume(
        self,
        session: Session,
        prompt: str = "",
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
    ) -> Iterator[str]:
        """Go on with a session of one sequence, after a prompt or where it stands, in pieces as ``stream`` gives them.

        The session has then read all text that was given, also where the iteration is left.

        Args:
            session: of this model.
            prompt: is read first; may be empty where the session has text.
            max_new_tokens: stop after so many; an end-of-text token or a full cache stops sooner.
            temperature, top_k, top_p, seed: as in ``stream``; none of them: as the session did before, with the random
                numbers that would have come.

        Raises:
            Error: the session has several sequences, or as ``stream``.
        """
        if session.batch != 1:
            raise UserError(f"`session` of {session.batch} sequences: expected one, whose text goes on")
        settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
        given: dict[str, Any] = {name: value for name, value in settings.items() if value is not None}
        sampling = Sampling(**given) if given else None
        if prompt:
            session.prefill(np.array([self.tokenizer.encode(prompt, special_tokens=session.position == 0)]))
        stream = self.tokenizer.stream(after=session.recent[session.recent >= 0].tolist())
        tokens = ((0, int(token)) for (token,) in session.generate(max_new_tokens, sampling))
        return (piece for _, piece in _texts([stream], tokens))

    def _pieces(self, ids: list[list[int]], max_new_tokens: int, sampling: Sampling) -> Iterator[tuple[int, str]]:
        """New text as it comes, with the index of its prompt."""
        tokens = new_tokens(self._runner, ids, max_new_tokens=max_new_tokens, sampling=sampling)
        return _texts([self.tokenizer.stream(after=each) for each in ids], tokens)

    def _close(self) -> None:
        """Give back the backend's memory."""
        self._opened.close()


def _texts(streams: Sequence[TextStream], tokens: Iterable[tuple[int, int]]) -> Iterator[tuple[int, str]]:
    for row, token in tokens:
        if piece := streams[row].push(token):
            yield row, piece
    for row, stream in enumerate(streams):
        if rest := stream.finish():
            yield row, rest
