"""Answers many requests with one model: a thread owns the runner, and requests join and leave its running batch."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Iterable

import numpy as np

from seqexport.plugins.errors import UserError
from seqexport.runtimes.base import Runner
from seqexport.runtimes.closing import Closing
from seqexport.runtimes.quiet import said
from seqexport.runtimes.serve.answer import Answer
from seqexport.runtimes.serve.batch import Batch
from seqexport.runtimes.serve.chooser import Chooser
from seqexport.runtimes.serve.jobs import Busy, Job
from seqexport.runtimes.serve.observer import Observer
from seqexport.runtimes.serve.pace import Pace
from seqexport.runtimes.serve.prefixes import Prefixes
from seqexport.runtimes.serve.reader import Reader
from seqexport.runtimes.serve.requests import Deliver, Failed, Limits, Request
from seqexport.runtimes.serve.teller import Teller, Told
from seqexport.runtimes.snapshot import Snapshot
from seqexport.runtimes.tokenizer import BundleTokenizer

IDLE_SECONDS = 10.0


class Engine(Closing):
    """Requests in the order in which they came: read in pieces between the steps of those that are being answered.

    Every answer is the one that the request alone would get.

    Args:
        runner: used by the engine's thread alone from now on; not closed by it.
        tokenizer: of its bundle.

    Raises:
        UserError: the runner does not take so many sequences, or sequences so long.
    """

    def __init__(
        self, runner: Runner, tokenizer: BundleTokenizer, limits: Limits, observer: Observer | None = None
    ) -> None:
        self._runner, self._tokenizer, self.limits = runner, tokenizer, limits
        self._observer = observer or Observer()
        capacity = runner.manifest.capacity
        self.longest = limits.max_tokens if capacity is None else min(limits.max_tokens, capacity)
        self._capacity = None if capacity is None else self.longest
        self._check_sizes()
        self._batch = Batch(runner, self._capacity, limits.max_batch)
        self._chooser = Chooser(runner, self._batch)
        self._prefixes = Prefixes(limits.prefix_bytes)
        self._keys = itertools.count()
        self._waiting: deque[Job] = deque()
        self._reading: list[Job] = []
        self._reader = Reader(runner, self._capacity, limits.max_batch)
        self._pace = Pace(limits.chunk)
        self._running: dict[int, Job] = {}
        self._teller = Teller(tokenizer)
        self._told: list[Told] = []
        self._gaps: list[float] = []
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._serve, name="seqexport-engine", daemon=True)
        self._thread.start()

    def _check_sizes(self) -> None:
        for batch in {1, self.limits.max_batch}:
            with self._runner.session(batch, self._capacity) as session:
                session.step(np.zeros(batch, np.int64))

    @property
    def waiting(self) -> int:
        """Requests that wait for a place."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Requests that are being read or answered."""
        return len(self._running) + len(self._reading)

    @property
    def prefix_bytes(self) -> int:
        """Of what is remembered of the beginnings of prompts."""
        return self._prefixes.nbytes

    @property
    def idle(self) -> bool:
        return not self.waiting and not self.running

    def submit(self, requests: Iterable[Request], deliver: Iterable[Deliver]) -> list[Job]:
        """Take requests, all or none; each one's events go where its ``deliver`` says.

        Raises:
            UserError: a prompt is empty, has tokens outside the vocabulary, or leaves no room for an answer.
            Busy: the queue is full, or the engine takes no more.
        """
        jobs = [self._job(request, to) for request, to in zip(requests, deliver, strict=True)]
        with self._changed:
            if self._stopping:
                raise Busy("the server is stopping and takes no more requests", stopping=True, seconds=5)
            room = self.limits.max_queue + self.limits.max_batch - self.running - len(self._waiting)
            if len(jobs) > room:
                raise Busy(
                    f"{len(self._waiting)} requests wait, and no more than {self.limits.max_queue} may; ask later",
                    stopping=False,
                    seconds=self._seconds_waited(),
                )
            self._waiting.extend(jobs)
            self._changed.notify()
        return jobs

    def _seconds_waited(self) -> int:
        """How long the oldest request has waited for its turn, as whole seconds from 1 to 60."""
        waited = time.monotonic() - self._waiting[0].arrived if self._waiting else 0
        return min(max(1, round(waited)), 60)

    def _job(self, request: Request, deliver: Deliver) -> Job:
        tokens, manifest = request.tokens, self._runner.manifest
        start = request.start
        if not tokens and start is None:
            raise UserError("the prompt is empty: give at least one token of text")
        vocabulary = range(manifest.vocab_size)
        if tokens and not (min(tokens) in vocabulary and max(tokens) in vocabulary):
            bad = next(token for token in tokens if token not in vocabulary)
            raise UserError(f"token {bad}: outside the vocabulary of {manifest.vocab_size}")
        before = 0 if start is None else start.position
        room = self.longest - before - len(tokens)
        if room < 1:
            said = f" after the session's {before}" if before else ""
            raise UserError(
                f"the prompt has {len(tokens)} tokens{said}: expected fewer than {self.longest}, the most that prompt "
                "and answer may have together; shorten it"
            )
        recent = [] if start is None else start.recent[start.recent >= 0].tolist()
        answer = Answer(request, self._tokenizer.stream(after=[*recent, *tokens]), manifest.eos_token_ids, room)
        return Job(next(self._keys), request, deliver, answer)

    def drain(self) -> None:
        """Take no more requests; those that are here are answered."""
        with self._changed:
            self._stopping = True

    def _close(self) -> None:
        """Stop at the next step; requests that are not answered by then fail."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()
        self._teller.close()

    def _serve(self) -> None:
        while self._await_work():
            try:
                self._forget_cancelled()
                self._read_prompts()
                self._step()
            except Exception as error:  # the runner's: whatever it is, others are served
                self._fail(said(error))
        self._fail("the server has stopped", busy=True)

    def _await_work(self) -> bool:
        """False at the end. Who is idle for long gives the batch's memory back."""
        with self._changed:
            if not self._changed.wait_for(self._has_work, IDLE_SECONDS):
                self._batch.clear()
                self._changed.wait_for(self._has_work)
            return not self.closed

    def _has_work(self) -> bool:
        return self.closed or not self.idle

    def _forget_cancelled(self) -> None:
        with self._changed:
            late = [job for job in self._waiting if not job.cancelled and self._late(job)]
            kept = [job for job in self._waiting if not job.cancelled and job not in late]
            self._waiting = deque(kept)
        failed = Failed(f"it waited for {self.limits.max_seconds:g} seconds; ask later", busy=True)
        self._teller.tell([(job, failed) for job in late])
        if self._reading and self._reading[0].cancelled:
            self._reading = []
        for job in [job for job in self._running.values() if job.cancelled]:
            self._leave(job)

    def _late(self, job: Job) -> bool:
        return time.monotonic() - job.arrived > self.limits.max_seconds

    def _read_prompts(self) -> None:
        """Those that came first, as much of them as the pace allows."""
        left = self._pace.tokens if self._running else self._pace.most
        while left > 0 and (jobs := self._next_to_read(left)):
            began = time.monotonic()
            cost = self._read(jobs, left)
            if cost:
                self._pace.read(cost, time.monotonic() - began)
            left -= max(cost, 1)

    def _next_to_read(self, most: int) -> list[Job]:
        """The prompt that is half read, or the next: together with those behind it, where one call reads them all."""
        if not self._reading:
            with self._changed:
                starts = self._take_from_waiting(most)
            if starts:
                self._reading = list(starts)
                self._reader.begin(list(starts.values()))
        return self._reading

    def _take_from_waiting(self, most: int) -> dict[Job, Snapshot | None]:
        """With what is known of each."""
        taken: dict[Job, Snapshot | None] = {}
        places, width = min(self._batch.places, self._reader.most), 0
        while self._waiting and len(taken) < places:
            job = self._waiting[0]
            start = self._known(job)
            width = max(width, len(job.tokens) - job.read)
            if taken and (not self._is_short(job) or (len(taken) + 1) * width > most):
                break
            taken[self._waiting.popleft()] = start
            if not self._is_short(job):
                break
        return taken

    def _is_short(self, job: Job) -> bool:
        """Whether one call reads the rest of its prompt, as what comes of a chunk is remembered."""
        return len(job.tokens) <= self._chunk_end(job)

    def _chunk_end(self, job: Job) -> int:
        return (job.read // self.limits.chunk + 1) * self.limits.chunk

    def _known(self, job: Job) -> Snapshot | None:
        """What its prompt goes on from."""
        start = job.request.start
        if start is None and (start := self._prefixes.longest(job.tokens)) is not None:
            job.read = job.reused = start.position
        return start

    def _read(self, jobs: list[Job], most: int) -> int:
        """The next part of each prompt; gives what it cost, in tokens."""
        alone = len(jobs) == 1
        ends = [min(self._chunk_end(job), job.read + most) if alone else len(job.tokens) for job in jobs]
        parts = [job.tokens[job.read : end] for job, end in zip(jobs, ends, strict=True)]
        cost = self._reader.read(parts)
        for row, (job, part) in enumerate(zip(jobs, parts, strict=True)):
            job.read += len(part)
            if part.size and (job.whole or job.read % self.limits.chunk == 0):
                self._remember(job, row)
        if jobs[0].whole:
            self._join(jobs)
        return cost

    def _remember(self, job: Job, row: int) -> None:
        """What came of a prompt's beginning, if it began an empty sequence."""
        if job.request.start is None and self._prefixes.takes(self._runner.manifest.state_bytes(1, job.read)):
            assert self._reader.session is not None
            self._prefixes.keep(job.tokens[: job.read], self._reader.session.read_row(row))

    def _join(self, jobs: list[Job]) -> None:
        assert self._reader.session is not None
        rows = {job.key: row for row, job in enumerate(jobs)}
        self._batch.join(rows, self._reader.session, soon=len(self._waiting))
        self._running |= {job.key: job for job in jobs}
        self._reading = []
        for job in jobs:
            self._observer.read(len(job.tokens), job.reused)

    def _leave(self, job: Job) -> None:
        del self._running[job.key]
        self._batch.leave(job.key)

    def _step(self) -> None:
        tokens = self._chooser.tokens(self._running.values())
        try:
            chosen = {job.key: self._choose(job, tokens[job.key]) for job in list(self._running.values())}
        finally:
            self._teller.tell(self._told)
            self._told = []
        fed = {key: token for key, token in chosen.items() if token is not None}
        if self._gaps:
            self._observer.next_tokens(self._gaps)
            self._gaps = []
        if fed:
            began = time.monotonic()
            self._batch.step(fed)
            self._pace.stepped(time.monotonic() - began)
            self._observer.stepped(len(fed))

    def _choose(self, job: Job, token: int | None) -> int | None:
        """The row's next token is this, or none as its logits are not finite; None where the row has ended."""
        if job.reads_last:
            self._finish(job)
            return None
        if self._late(job):
            job.answer.end = "length"
        else:
            try:
                token, told = self._chooser.take(job, token)
            except Exception as error:  # this request's own: others go on
                self._leave(job)
                self._told.append((job, Failed(said(error))))
                return None
            self._told += [(job, what) for what in told]
            part = job.answer.ends_with(token)
            if part:
                self._timed(job)
            job.reads_last = job.answer.end is not None and job.request.keep and part
            if job.answer.end is None or job.reads_last:
                return token
        self._finish(job)
        return None

    def _finish(self, job: Job) -> None:
        request = job.request
        row = self._batch.row(job.key) if request.keep or request.talk else None
        if row is not None and request.talk and request.start is None:
            read = np.concatenate([job.tokens, np.array(job.answer.tokens, np.int64)])[: row.position]
            self._prefixes.keep(read, row)
        self._leave(job)
        self._told.append((job, job.ended(row if request.keep else None)))

    def _timed(self, job: Job) -> None:
        now = time.monotonic()
        if len(job.answer.tokens) == 1:
            self._observer.first_token(now - job.last)
        else:
            self._gaps.append(now - job.last)
        job.last = now

    def _fail(self, message: str, *, busy: bool = False) -> None:
        """End all that is under way, and when it closes all that waits; what comes next starts afresh."""
        with self._changed:
            failed = list({job.key: job for job in (*self._running.values(), *self._reading)}.values())
            if self.closed:
                failed += self._waiting
                self._waiting.clear()
            self._reading = []
            self._running.clear()
        self._batch.clear()
        self._reader.close()
        self._teller.tell([(job, Failed(message, busy)) for job in failed])
