"""The model behind the server: loading, ready, or draining."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Literal

from seqexport.plugins.errors import UserError
from seqexport.runtimes.base import Runner
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.chat import Message, chat_prompt
from seqexport.runtimes.closing import Closing
from seqexport.runtimes.serve.engine import Engine
from seqexport.runtimes.serve.jobs import Busy
from seqexport.runtimes.serve.observer import Observer
from seqexport.runtimes.serve.requests import Limits
from seqexport.runtimes.serve.sessions import Sessions
from seqexport.runtimes.tokenizer import BundleTokenizer

Status = Literal["loading", "ready", "draining"]


class Service(Closing):
    """A bundle that is opened on a thread of its own, so that the server can say meanwhile that it is loading.

    Args:
        open_runner: opens the bundle on a backend.
        sessions: of the bundle; closed after the engine.

    Attributes:
        failure: why it cannot be opened; None while it is, or has been.

    Raises:
        UserError: the bundle is no language model's, or has no tokenizer.
    """

    def __init__(
        self,
        bundle: Bundle,
        open_runner: Callable[[], Runner],
        limits: Limits,
        sessions: Sessions,
        observer: Observer | None = None,
    ) -> None:
        if bundle.manifest.language_model is None:
            raise UserError(f"{bundle.path} is not a language model's: there is no text to serve; call it from Python")
        self.bundle, self.limits, self.sessions = bundle, limits, sessions
        self.tokenizer = BundleTokenizer(bundle)
        self.failure: Exception | None = None
        self._draining = False
        self._opened: Engine | None = None
        self._resources = ExitStack()
        self._resources.enter_context(sessions)
        self._loading = threading.Thread(target=self._load, args=(open_runner, observer), name="seqexport-load")
        self._loading.start()

    def _load(self, open_runner: Callable[[], Runner], observer: Observer | None) -> None:
        try:
            runner = self._resources.enter_context(open_runner())
            self._opened = self._resources.enter_context(Engine(runner, self.tokenizer, self.limits, observer))
        except Exception as error:
            self.failure = error

    def loaded(self) -> Service:
        """Itself, once it is ready.

        Raises:
            UserError: it cannot be opened.
        """
        self._loading.join()
        if self.failure is not None:
            raise self.failure
        return self

    @property
    def name(self) -> str:
        """The bundle's, by which clients call the model."""
        return self.bundle.name

    @property
    def status(self) -> Status:
        if self._draining:
            return "draining"
        return "loading" if self._opened is None else "ready"

    @property
    def engine(self) -> Engine:
        """Raises Busy: it is still loading."""
        if self._opened is None:
            raise Busy("the model is still loading; ask again", stopping=True, seconds=1)
        return self._opened

    @property
    def waiting(self) -> int:
        return self._opened.waiting if self._opened else 0

    @property
    def running(self) -> int:
        return self._opened.running if self._opened else 0

    @property
    def prefix_bytes(self) -> int:
        return self._opened.prefix_bytes if self._opened else 0

    @property
    def idle(self) -> bool:
        return self._opened is None or self._opened.idle

    @property
    def state_bytes(self) -> int:
        """Of one sequence; of caches, as much as it may have at most."""
        manifest = self.bundle.manifest
        return manifest.state_bytes(1, min(manifest.capacity or 0, self.limits.max_tokens))

    @property
    def chats(self) -> bool:
        """Whether the bundle has a chat template that takes a plain message."""
        try:
            chat_prompt(self.bundle, [{"role": "user", "content": "?"}])
        except UserError:
            return False
        return True

    def chat_tokens(self, messages: Sequence[Message]) -> list[int]:
        """A conversation by the bundle's chat template.

        Raises:
            UserError: the bundle has none, or it refuses the messages.
        """
        return self.tokenizer.encode(chat_prompt(self.bundle, messages), special_tokens=False)

    def drain(self) -> None:
        """Take no more requests; those that are here are answered."""
        self._draining = True
        if self._opened is not None:
            self._opened.drain()

    def _close(self) -> None:
        self._loading.join()
        self._resources.close()
