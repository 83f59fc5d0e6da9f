"""The server's log: one JSON object a line, on the standard error stream."""

from __future__ import annotations

import datetime
import logging
import sys
from typing import Any

import msgspec

LOGGER = logging.getLogger("seqexport.serve")
FIELDS = "fields"
"""Of a record: what it tells beside its message."""


class JsonLines(logging.Formatter):
    """``time``, ``level``, ``message``, then the record's own fields. An error is told with its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.datetime.fromtimestamp(record.created, datetime.timezone.utc)
        told: dict[str, Any] = {
            "time": time.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, FIELDS, {}),
        }
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(told).decode()


def tell(message: str, **fields: Any) -> None:
    """One line of what the server does."""
    LOGGER.info(message, extra={FIELDS: fields})


def log_as_json() -> None:
    """Ours and the web server's lines, from now on in this process."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name, level in (("seqexport.serve", logging.INFO), ("uvicorn.error", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
