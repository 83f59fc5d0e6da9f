"""Chat templates are programs of their authors, and may compute for ever: they run in a process that is killed then."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any

SECONDS = 5.0
"""That a template may take; real ones take milliseconds."""

CHILD = """
import sys
sys.path[:] = {path!r}
from seqexport.runtimes.chat_process import main
main()
"""


class RenderError(Exception):
    """What is wrong with a template or what it was given, in one line."""


class Renderer:
    """One process for all templates, started when the first one comes. Threads take turns."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._turn = threading.Lock()

    def render(self, template: str, names: Mapping[str, Any]) -> str:
        """A template's text.

        Raises:
            RenderError: it fails, or takes too long.
            TypeError: ``names`` hold what JSON does not have.
        """
        asked = json.dumps({"template": template, "names": names, "seconds": SECONDS})
        with self._turn:
            try:
                answer = self._answer(self._process or self._start(), asked)
            except BaseException:
                self._end()
                raise
        if "error" in answer:
            raise RenderError(answer["error"])
        return answer["text"]

    def _start(self) -> subprocess.Popen[str]:
        self._process = subprocess.Popen(
            [sys.executable, "-c", CHILD.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        )
        self._read(self._process)  # it is there
        return self._process

    def _answer(self, process: subprocess.Popen[str], asked: str) -> dict[str, str]:
        assert process.stdin is not None
        late = threading.Timer(SECONDS, process.kill)
        late.start()
        try:
            process.stdin.write(asked + "\n")
            process.stdin.flush()
            answer: dict[str, str] = self._read(process)
        except OSError as error:
            raise RenderError("the process that renders it has ended") from error
        finally:
            late.cancel()
        return answer

    def _read(self, process: subprocess.Popen[str]) -> Any:
        assert process.stdout is not None
        if line := process.stdout.readline():
            return json.loads(line)
        raise RenderError(f"it takes more than {SECONDS:g} s, or more memory than there is")

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def close(self) -> None:
        """Ends the process; another one is started if it is needed again."""
        with self._turn:
            self._end()

    def forget(self) -> None:
        """The process is another one's: of the program that this one was forked from."""
        self.__init__()  # type: ignore[misc]


renderer = Renderer()
atexit.register(renderer.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=renderer.forget)
