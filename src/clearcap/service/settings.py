"""Settings of the service, checked before anything starts."""

from __future__ import annotations

import ipaddress
import logging
import os
from dataclasses import dataclass, field
from typing import TypeAlias

from clearcap.config import number, require
from clearcap.errors import InputError

IPNetwork: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

METRICS_FOLDER = (
    "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client's own variable: where workers leave their values
)
MIB = 2**20


@dataclass(frozen=True)
class ServiceSettings:
    """What ``clearcap serve`` is told. Limits hold for each worker.

    Attributes:
        model: folder, hub name, or one that ships.
        names: what requests may call the model; the first is what answers call it. Default: ``model``.
        clip: CLIP that ``select=similarity`` goes by; "" is none.
        device: where it runs; "" is a GPU if there is one, else the CPU.
        plugins: plug-ins that every worker loads.
        host: address to listen at.
        port: 0 takes a free one.
        workers: processes that share the port, each with the model.
        threads: of each worker's forward passes; 0 shares the cores among the workers.
        batch_size: photos of a forward pass at most.
        batch_wait: milliseconds that a forward pass waits for requests that are being read at that moment.
        queue: photos that may wait; more are refused with 429.
        timeout: seconds within which a request is answered, or refused with 503.
        upload_timeout: seconds within which a request must have been sent, and its URLs fetched.
        max_bytes: of a request, and of a photo behind a URL.
        max_memory: bytes of all requests that are being read or decoded at once.
        max_pixels: of a photo, which is refused before it is decoded.
        max_images: photos of a request.
        max_calls: rows that a photo may ask of the denoiser: candidates * steps, twice that under guidance.
        max_connections: open at once.
        allow_urls: whether photos may be given as http and https URLs.
        allow_networks: networks that URLs may lead to beside public addresses.
        token: what ``Authorization: Bearer`` must say; "" asks for nothing.
        shutdown_timeout: seconds that a stopping worker gives the requests it took.
        log_level: of Python's logging: at DEBUG questions of health are logged, too.
    """

    model: str = "default"
    names: tuple[str, ...] = ()
    clip: str = ""
    device: str = ""
    plugins: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    threads: int = 0
    batch_size: int = 4
    batch_wait: float = 5.0
    queue: int = 64
    timeout: float = 30.0
    upload_timeout: float = 15.0
    max_bytes: int = 20 * MIB
    max_memory: int = 256 * MIB
    max_pixels: int = 50_000_000
    max_images: int = 16
    max_calls: int = 2_000
    max_connections: int = 512
    allow_urls: bool = False
    allow_networks: tuple[str, ...] = ()
    token: str = field(default="", repr=False)
    shutdown_timeout: int = 60
    log_level: int = logging.INFO

    def __post_init__(self) -> None:
        number("port", self.port, int, 0, 65_535)
        for name in ("workers", "batch_size", "queue", "max_pixels", "max_images", "max_calls"):
            number(name, getattr(self, name), int, 1)
        for name in ("max_bytes", "max_memory", "max_connections", "shutdown_timeout"):
            number(name, getattr(self, name), int, 1)
        number("threads", self.threads, int, 0)
        number("batch_wait", self.batch_wait, float, 0, 10_000)
        number("timeout", self.timeout, float, 0.001, 86_400)
        number("upload_timeout", self.upload_timeout, float, 0.001, 86_400)
        require(
            self.max_images <= self.queue,
            f"max_images={self.max_images} photos of one request do not fit a queue of {self.queue}; raise queue",
        )
        require(
            self.max_bytes <= self.max_memory,
            f"max_bytes={self.max_bytes} exceeds max_memory={self.max_memory}; raise max_memory",
        )
        require(
            self.allow_urls or not self.allow_networks,
            "allow_networks says where URLs may lead, but URLs are refused; pass allow_urls too",
        )
        require(
            self.token.isascii() and self.token.isprintable() and " " not in self.token,
            "token: a bearer token has printable ASCII characters and no space; choose another",
        )
        self.networks()

    def networks(self) -> tuple[IPNetwork, ...]:
        """The networks that URLs may lead to beside public addresses. Raises InputError."""
        try:
            return tuple(ipaddress.ip_network(text) for text in self.allow_networks)
        except ValueError as error:
            raise InputError(f"allow_networks: {error}; write 10.1.0.0/16 or fd00::/8") from error

    @property
    def model_names(self) -> tuple[str, ...]:
        """What requests may call the model, what answers call it first."""
        return self.names or (self.model,)

    @property
    def worker_threads(self) -> int:
        """Threads of each worker's forward passes."""
        return self.threads or max(1, (os.cpu_count() or 1) // self.workers)
