"""Around every request: the token, the log, the metrics, and one line for whatever goes wrong."""

from __future__ import annotations

import hmac
import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clearcap.service.logs import event
from clearcap.service.metrics import Metrics
from clearcap.service.refusals import Refused, error_response

OPEN_TO_ALL = ("/health", "/ready")  # for whoever watches over the process
REQUEST_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)


class Observed:
    """An application whose every request is answered, counted and logged.

    Args:
        app: the application.
        metrics: where requests are counted.
        token: what ``Authorization: Bearer`` must say; "" asks for nothing.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, token: str = "") -> None:
        self._app, self._metrics, self._token = app, metrics, token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI says."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        name = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        status = 0

        async def observed_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = name
            await send(message)

        self._metrics.open.inc()
        try:
            if not self._admits(scope["path"], headers):
                fault = Refused(401, "the bearer token is missing or wrong", {"WWW-Authenticate": "Bearer"})
                await error_response(fault)(scope, receive, observed_send)
            else:
                await self._app(scope, receive, observed_send)
        except Exception as error:
            event("failed", level=logging.ERROR, error=error, request=name)
            if not status:
                fault = Refused(500, "the service failed; its log says why")
                await error_response(fault)(scope, receive, observed_send)
        finally:
            self._metrics.open.dec()
            route = getattr(scope.get("route"), "path", "other")
            seconds = time.perf_counter() - began
            self._metrics.requests.labels(route, str(status)).inc()
            self._metrics.seconds.labels(route).observe(seconds)
            quiet = route in OPEN_TO_ALL or route == "/metrics"
            event(
                "request",
                level=logging.DEBUG if quiet else logging.INFO,
                request=name,
                method=scope["method"],
                route=route,
                status=status,
                ms=round(1000 * seconds, 1),
                **scope.get("state", {}).get("told", {}),
            )

    def _admits(self, path: str, headers: Headers) -> bool:
        if not self._token or path in OPEN_TO_ALL:
            return True
        kind, _, token = headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(token.strip().encode(), self._token)
        return right and kind.lower() == "bearer"
