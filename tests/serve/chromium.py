"""A page in headless Chromium, by the DevTools protocol over two pipes: the browser alone is needed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.conftest import leave_out

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
         "--remote-debugging-pipe")  # fmt: skip
SECONDS = 60


class Page:
    """One that is open."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = os.fdopen(to_browser, "wb", 0), os.fdopen(from_browser, "rb", 0)
        self._calls, self._held = 0, b""
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def call(self, method: str, **params: Any) -> Mapping[str, Any]:
        """What the browser answers; its events are passed over."""
        self._calls += 1
        session = {"sessionId": self._session} if self._session else {}
        self._to.write(json.dumps({"id": self._calls, "method": method, "params": params, **session}).encode() + b"\0")
        while (message := self._message()).get("id") != self._calls:
            pass
        assert "error" not in message, message
        result: Mapping[str, Any] = message["result"]
        return result

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._held:
            received = self._from.read(1 << 16)
            assert received, "the browser has ended"
            self._held += received
        whole, _, self._held = self._held.partition(b"\0")
        message: dict[str, Any] = json.loads(whole)
        return message

    def open(self, url: str, width: int, height: int) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Page.navigate", url=url)

    def value(self, expression: str) -> Any:
        """Of an expression of the page's own JavaScript."""
        given = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in given, given
        return given["result"].get("value")

    def wait_for(self, expression: str) -> None:
        deadline = time.monotonic() + SECONDS
        while not self.value(expression):
            assert time.monotonic() < deadline, expression
            time.sleep(0.05)

    def type(self, text: str, into: str) -> None:
        """As a person does: the field gets the focus, then the characters."""
        self.value(f"document.querySelector('{into}').focus()")
        self.call("Input.insertText", text=text)

    def press_enter(self) -> None:
        key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}
        self.call("Input.dispatchKeyEvent", type="keyDown", text="\r", **key)
        self.call("Input.dispatchKeyEvent", type="keyUp", **key)


@contextmanager
def opened(folder: Path) -> Iterator[Page]:
    """An empty page; ``folder`` is where the browser has its own files. Skips the test where there is no browser."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        leave_out(f"tests of the server's page left out: none of {', '.join(PROGRAMS)} is here")
    (reads, to_browser), (from_browser, writes) = os.pipe(), os.pipe()
    wires = f'exec "$@" 3</proc/self/fd/{reads} 4>/proc/self/fd/{writes}'
    command = ["sh", "-c", wires, "sh", program, *FLAGS, f"--user-data-dir={folder}", "about:blank"]
    browser = subprocess.Popen(command, pass_fds=(reads, writes), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    os.close(reads)
    os.close(writes)
    page = Page(to_browser, from_browser)
    try:
        yield page
    finally:
        page._session = None
        page.call("Browser.close")
        browser.wait(SECONDS)
        page._to.close()
        page._from.close()
