"""A service as its users have it: a process of its own, and clients that talk to it over loopback."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BOUNDARY = "----a-photo-is-never-this-line"


@dataclass(frozen=True)
class Answer:
    """What the service said.

    Attributes:
        status: of HTTP.
        headers: of the answer, their names in lower case.
        body: its bytes.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def fault(self) -> str:
        """The one line of a refusal."""
        return str(self.json["error"]["message"])


class Client:
    """One connection that is kept.

    Args:
        port: of the service.
        timeout: seconds a read may take.
        headers: sent with every request.
    """

    def __init__(self, port: int, *, timeout: float = 300, headers: Mapping[str, str] | None = None) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
        self._headers = dict(headers or {})

    def get(self, path: str) -> Answer:
        """GET."""
        return self._ask("GET", path, None, {})

    def post(self, path: str, body: Any, kind: str = "application/json", **headers: str) -> Answer:
        """POST bytes, or an object as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self._ask("POST", path, data, {"Content-Type": kind, **headers})

    def post_form(self, path: str, photos: Iterable[bytes], **fields: Any) -> Answer:
        """POST a form with photos."""
        return self.post(path, form(photos, **fields), f"multipart/form-data; boundary={BOUNDARY}")

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def _ask(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        try:
            self._connection.request(method, path, body, {**self._headers, **headers})
            response = self._connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())
        except BaseException:
            self._connection.close()  # the next request begins anew
            raise


def form(photos: Iterable[bytes], **fields: Any) -> bytes:
    """A multipart form of photos and texts."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    for number, photo in enumerate(photos, 1):
        head = f'Content-Disposition: form-data; name="image"; filename="{number}.jpg"'
        parts.append(f"--{BOUNDARY}\r\n{head}\r\n\r\n".encode() + photo + b"\r\n")
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


@dataclass
class Service:
    """A running service.

    Attributes:
        process: its own, or its supervisor's.
        port: where it listens.
        log: file of its standard error.
    """

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def client(self, **how: Any) -> Client:
        """A new connection."""
        return Client(self.port, **how)

    def events(self) -> list[dict[str, Any]]:
        """Its log so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def metric(self, name: str, client: Client | None = None) -> float:
        """A value of ``/metrics``, 0 where it has none yet."""
        text = (client or self.client()).get("/metrics").body.decode()
        lines = [line for line in text.splitlines() if line.startswith(name + " ")]
        return float(lines[0].rpartition(" ")[2]) if lines else 0.0

    def megabytes(self) -> float:
        """Resident memory of its processes."""
        pids = [str(self.process.pid), *children(self.process.pid)]
        return sum(map(resident_kilobytes, pids)) / 1024

    def stop(self, timeout: float = 60) -> int:
        """SIGTERM; the exit status once it has stopped."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)


def children(pid: int) -> list[str]:
    """Processes that a process started."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def resident_kilobytes(pid: str) -> int:
    """Resident memory of a process; 0 once it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
    return 0


@contextlib.contextmanager
def running_service(
    *options: object, patience: float = 900, environment: Mapping[str, str] | None = None
) -> Iterator[Service]:
    """``clearcap serve`` on a free port, ready, until the block ends.

    Args:
        options: of the command.
        patience: seconds until it is ready.
        environment: variables beside this process's.

    Raises:
        RuntimeError: it ended, or was not ready in time; with its log.
    """
    command = [sys.executable, "-m", "clearcap", "serve", "--port", "0", *map(str, options)]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.jsonl"
        with log.open("wb") as sink:
            process = subprocess.Popen(command, stderr=sink, env={**os.environ, **(environment or {})})
        service = Service(process, 0, log)
        try:
            _wait(service, time.monotonic() + patience)
            yield service
        finally:
            if process.poll() is None:
                try:
                    service.stop()
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def _wait(service: Service, until: float) -> None:
    while time.monotonic() < until and service.process.poll() is None:
        told = [event["address"] for event in service.events() if "address" in event]
        if told:
            service.port = int(told[0].rpartition(":")[2])
            with contextlib.suppress(OSError, http.client.HTTPException):
                if service.client(timeout=10).get("/ready").status == 200:
                    return
        time.sleep(0.05)
    raise RuntimeError(f"the service did not come up:\n{service.log.read_text()}")
