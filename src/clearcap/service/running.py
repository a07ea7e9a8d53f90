"""The service as processes: a socket, workers that share it, and an end that loses nothing.

Importing this module is quick: a worker does so before it answers its supervisor, who takes the silent for dead.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import deque
from contextlib import suppress
from functools import partial
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.config import STARTUP_FAILURE
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.supervisors import Multiprocess

from clearcap.errors import InputError
from clearcap.registry import load_plugin
from clearcap.service.logs import event, log_json
from clearcap.service.settings import METRICS_FOLDER, ServiceSettings

DEATHS, WITHIN = 3, 300.0  # of each worker, in so many seconds, until starting others is no use
BACKLOG = 2_048  # connections that the system keeps until a worker takes them


class PatientConfig(uvicorn.Config):
    """uvicorn's settings, and how long a request's head may take."""

    def __init__(self, *settings: Any, head_seconds: float, **more: Any) -> None:
        """As for uvicorn."""
        super().__init__(*settings, **more)
        self.head_seconds = head_seconds


class PatientProtocol(H11Protocol):
    """HTTP whose clients may not take forever over a request's head."""

    config: PatientConfig
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self._wait_for_head()

    def on_response_complete(self) -> None:
        """A request is answered, and the next may come."""
        super().on_response_complete()
        if self.cycle is None or self.cycle.response_complete:
            self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        if self._late is not None:
            self._late.cancel()
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        if self._late is not None:
            self._late.cancel()
        self._late = self.loop.call_later(self.config.head_seconds, self._give_up, self.cycle)

    def _give_up(self, cycle: Any) -> None:
        if self.cycle is not cycle or self.transport.is_closing():
            return  # a request has come
        if self.conn.our_state is h11.IDLE:
            body = b'{"error": {"message": "the head of the request took too long", "code": 408}}'
            head = "HTTP/1.1 408 Request Timeout\r\nContent-Type: application/json\r\n"
            length = f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            self.transport.write((head + length).encode() + body)
        self.transport.close()


class Workers(Multiprocess):
    """uvicorn's supervisor, whose end refuses new connections at once, not when the last worker has stopped.

    It gives up where workers die as fast as they are started, so that whoever supervises the service hears of it.
    """

    gave_up = False

    def __init__(self, *about: Any, **named: Any) -> None:
        """As for uvicorn."""
        super().__init__(*about, **named)
        self._deaths: deque[float] = deque(maxlen=DEATHS * self.config.workers)

    def keep_subprocess_alive(self) -> None:
        """Start others in the place of those that died."""
        before = list(self.processes)
        super().keep_subprocess_alive()
        now = time.monotonic()
        for dead in before:
            if dead not in self.processes:
                self._deaths.append(now)
                event("a worker died", level=logging.ERROR, exit=dead.exitcode)
        if len(self._deaths) == self._deaths.maxlen and now - self._deaths[0] < WITHIN:
            self.gave_up = True
            event("workers die as fast as they are started; stopping", level=logging.ERROR)
            self.should_exit.set()

    def join_all(self) -> None:
        """Wait for workers that were told to stop."""
        time.sleep(0.3)  # in which they leave the socket by themselves
        for sock in self.sockets:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)  # for all who have it
        super().join_all()


def serve(settings: ServiceSettings) -> int:
    """Serve until a signal says stop; the exit status.

    Raises:
        InputError: the model cannot be loaded, or the port cannot be had.
    """
    sock = _listening(settings.host, settings.port)
    log_json(settings.log_level)
    try:
        return _serve_alone(settings, sock) if settings.workers == 1 else _serve_many(settings, sock)
    finally:
        sock.close()


def load_app(settings: ServiceSettings) -> ASGIApp:
    """The application with its captioner loaded and warm. Raises InputError."""
    import numpy as np

    from clearcap.data.threads import set_threads
    from clearcap.pipeline import CaptionPipeline
    from clearcap.service.app import build_app
    from clearcap.service.work import caption_together, lanes_of

    for plugin in settings.plugins:
        load_plugin(plugin)
    os.environ["OMP_NUM_THREADS"] = str(settings.worker_threads)  # read by graphs, and by torch if it comes
    set_threads(settings.worker_threads)
    pipeline = CaptionPipeline.from_pretrained(
        settings.model, backend="fast", device=settings.device or None, clip=settings.clip or None
    )
    blank: np.ndarray = np.zeros((pipeline.image_size, pipeline.image_size, 3), np.uint8)
    for photos in {1, settings.batch_size * lanes_of(pipeline)}:
        caption_together(pipeline, [blank] * photos, settings.batch_size)
    return build_app(pipeline, settings)


def load_app_or_exit(settings: ServiceSettings) -> ASGIApp:
    """As ``load_app``, in a worker: one line, and a status with which no other worker is started in its place."""
    log_json(settings.log_level)
    try:
        return load_app(settings)
    except InputError as fault:
        print(f"clearcap: {fault}", file=sys.stderr)
        sys.exit(STARTUP_FAILURE)


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        sock = socket.socket(family)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except OSError as error:
        raise InputError(
            f"{host}:{port} cannot be listened at ({error.strerror or error}); choose another --host or --port"
        ) from error
    sock.set_inheritable(True)
    return sock


def _config(app: Any, settings: ServiceSettings, **more: Any) -> PatientConfig:
    return PatientConfig(
        app,
        head_seconds=settings.upload_timeout,
        http=PatientProtocol,
        ws="none",
        lifespan="on",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=settings.max_connections,
        timeout_graceful_shutdown=settings.shutdown_timeout,
        timeout_worker_healthcheck=60,  # importing torch and loading a model keep a worker busy
        **more,
    )


def _serve_alone(settings: ServiceSettings, sock: socket.socket) -> int:
    app = load_app(settings)
    server = uvicorn.Server(_config(app, settings, backlog=BACKLOG))
    for number in (signal.SIGINT, signal.SIGTERM):  # which uvicorn raises once more when it has stopped
        signal.signal(number, lambda *about: setattr(server, "should_exit", True))
    _say_ready(settings, sock)
    server.run(sockets=[sock])
    event("stopped")
    return 0


def _serve_many(settings: ServiceSettings, sock: socket.socket) -> int:
    folder = tempfile.mkdtemp(prefix="clearcap-metrics-")
    os.environ[METRICS_FOLDER] = folder  # read by workers when they import prometheus_client
    try:
        config = _config(
            partial(load_app_or_exit, settings),
            settings,
            factory=True,
            workers=settings.workers,
            backlog=1,  # asyncio takes so many connections at once: more, and one worker takes them all
            callback_notify=partial(_listen, sock),
        )
        supervisor = Workers(config, sockets=[sock])
        _say_ready(settings, sock)
        supervisor.run()
        event("stopped")
        return (
            1
            if supervisor.gave_up or any(one.exitcode == STARTUP_FAILURE for one in supervisor.processes)
            else 0
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _listen(sock: socket.socket) -> None:
    sock.listen(BACKLOG)


def _say_ready(settings: ServiceSettings, sock: socket.socket) -> None:
    host, port = sock.getsockname()[:2]
    event(
        "serving" if settings.workers == 1 else "starting",
        address=f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}",
        model=settings.model,
        workers=settings.workers,
        threads=settings.worker_threads,
    )
