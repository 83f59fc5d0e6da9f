"""The next token of each request that is being answered, and what there is to tell of it."""

from __future__ import annotations

from collections.abc import Collection

from seqexport.runtimes.base import Runner
from seqexport.runtimes.cores import by_rows
from seqexport.runtimes.finite import check_logits
from seqexport.runtimes.serve.batch import Batch
from seqexport.runtimes.serve.jobs import Job
from seqexport.runtimes.serve.requests import Chosen, Piece


class Chooser:
    """Chooses from the logits of a batch's rows, as ``Session.generate`` does with the same seed."""

    def __init__(self, runner: Runner, batch: Batch) -> None:
        self._runner, self._batch = runner, batch

    def tokens(self, jobs: Collection[Job]) -> dict[int, int | None]:
        """By the jobs' keys; None where logits are not all finite. Those that are drawn are so on several cores."""
        tokens = self._batch.likeliest()
        drawn = [job for job in jobs if job.draws and tokens[job.key] is not None]

        def draw(part: slice) -> None:
            for job in drawn[part]:
                tokens[job.key] = job.request.sampling.choose(self._batch.logits(job.key), job.generators, 0)

        by_rows(draw, len(drawn), len(drawn) * 4 * self._runner.manifest.vocab_size)
        return tokens

    def take(self, job: Job, token: int | None) -> tuple[int, list[int | Piece]]:
        """Make a token part of the answer, if it is; gives it, and what is to be told of it.

        Raises:
            UserError: there is none, as the logits are not finite; or the tokenizer fails on it.
        """
        if token is None:
            where = f"a sequence of {self._batch.length(job.key)} tokens"
            check_logits(self._runner, self._batch.logits(job.key), where)
        assert token is not None
        if job.speaks:
            return token, [*self._pieces(job, token)]
        return token, [token] if job.answer.add(token) else []

    def _pieces(self, job: Job, token: int) -> list[Piece]:
        """The token's text, made here and now, and its probability; nothing where there is nothing to tell."""
        text, count = job.answer.say(token), job.request.logprobs
        part = job.answer.ends_with(token)
        chosen = Chosen.among(self._batch.logits(job.key), token, count) if part and count is not None else None
        return [Piece(text, chosen)] if text or chosen else []
