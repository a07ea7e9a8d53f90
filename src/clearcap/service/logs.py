"""Logs as JSON, a line an event: what happened to which request, never what was in it."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

log = logging.getLogger("clearcap.service")


class JSONLines(logging.Formatter):
    """A record as one line of JSON; what a record was given as ``extra={"fields": {...}}`` is part of it."""

    def format(self, record: logging.LogRecord) -> str:
        """One record as one line of JSON."""
        now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        told: dict[str, Any] = {
            "time": f"{now}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "pid": record.process,
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            told["error"] = self.formatException(record.exc_info)
        return json.dumps(told)


def log_json(level: int = logging.INFO) -> None:
    """Send the service's log, and uvicorn's, to standard error as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JSONLines())
    for logger in (log, logging.getLogger("uvicorn.error")):
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # quotes forms


def event(name: str, *, level: int = logging.INFO, error: BaseException | None = None, **fields: Any) -> None:
    """Log an event."""
    log.log(level, name, extra={"fields": fields}, exc_info=error)
