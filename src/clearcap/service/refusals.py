"""Why a request is not answered: an HTTP status and one line."""

from __future__ import annotations

import json
from collections.abc import Mapping

from starlette.responses import Response

KINDS = {  # the protocol of OpenAI's clients names kinds of errors
    401: "authentication_error",
    404: "not_found_error",
    429: "overloaded_error",
    500: "server_error",
    503: "server_error",
}

MAX_MESSAGE = 500


class Refused(Exception):
    """A request that is refused.

    Args:
        status: of HTTP.
        message: one line that says what to do instead.
        headers: of the answer.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        line = " ".join(message.split())
        self.message = (
            line if len(line) <= MAX_MESSAGE else line[:MAX_MESSAGE] + " ..."
        )  # it may quote the request
        self.headers = dict(headers or {})


def busy(message: str, seconds: int) -> Refused:
    """Too much at once: 429, and when to come back."""
    return Refused(
        429, f"{message}; try again in {seconds} s", {"Retry-After": str(seconds), "X-Should-Retry": "true"}
    )


def error_response(fault: Refused) -> Response:
    """The answer to a request that is refused, in the form that OpenAI's clients read."""
    kind = KINDS.get(fault.status, "invalid_request_error")
    error = {"message": fault.message, "type": kind, "code": fault.status}
    body = json.dumps({"error": error}).encode()  # escaped: valid whatever the message quotes
    return Response(body, fault.status, {**fault.headers, "Content-Type": "application/json"})
