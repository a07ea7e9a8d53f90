"""URLs of strangers lead to public addresses only: by name, by number, by redirect, whatever the spelling."""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from clearcap.errors import InputError
from clearcap.service import fetching
from clearcap.service.fetching import fetch_public, is_public

NETWORKS = (ipaddress.ip_network("127.0.0.2/32"),)
INSIDE = [
    *("127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1"),
    *("169.254.169.254", "100.64.0.1", "192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1"),
    *("224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "fe80::1%eth0"),
    *("fc00::1", "fd00::1", "fec0::1", "ff02::1", "2001:db8::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1"),
    *("::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::1", "2002:7f00:1::1", "2001:0:7f00:1::1"),
]


@pytest.mark.parametrize("address", INSIDE)
def test_addresses_inside(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1"])
def test_public_addresses(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


def test_networks_that_are_allowed() -> None:
    assert is_public(ipaddress.ip_address("127.0.0.2"), NETWORKS)
    assert is_public(ipaddress.ip_address("::ffff:127.0.0.2"), NETWORKS)
    assert not is_public(ipaddress.ip_address("127.0.0.3"), NETWORKS)


def answer(handler: BaseHTTPRequestHandler, path: str) -> None:
    """What the photo server says under a path."""
    if path.startswith("/to/"):
        handler.send_response(302)
        handler.send_header("Location", path.removeprefix("/to/").replace("!", "/"))
        handler.end_headers()
    elif path == "/loop":
        handler.send_response(301)
        handler.send_header("Location", "/loop")
        handler.end_headers()
    elif path == "/drip":
        handler.send_response(200)
        handler.end_headers()
        for _ in range(100):
            handler.wfile.write(b".")
            time.sleep(0.1)
    elif path == "/drip-head":
        for _ in range(100):
            handler.wfile.write(b"H")
            time.sleep(0.1)
    elif path == "/short":
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b"too little")
    elif path == "/photo":
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(handler.headers["Host"].encode())
    else:
        handler.send_error(404)


class Photos(BaseHTTPRequestHandler):
    """A server of photos, for better or worse."""

    def do_GET(self) -> None:
        try:
            answer(self, self.path)
        except OSError:
            return  # the client has had enough

    def log_message(self, *about: Any) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.2", 0), Photos)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()


@pytest.fixture
def fetch(port: int) -> Callable[..., bytes]:
    def run(url: str, timeout: float = 20.0) -> bytes:
        url = url.replace("PORT", str(port))
        return fetch_public(url, "image 1", timeout=timeout, max_bytes=2_000, networks=NETWORKS)

    return run


def test_an_allowed_address_is_fetched(fetch: Callable[..., bytes], port: int) -> None:
    assert fetch("http://127.0.0.2:PORT/photo") == f"127.0.0.2:{port}".encode()
    assert fetch("http://127.0.0.2:PORT/to/!photo") == f"127.0.0.2:{port}".encode()


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:PORT/photo",
        "http://localhost:PORT/photo",
        "http://LOCALHOST.:PORT/photo",
        "http://[::1]:PORT/photo",
        "http://[::ffff:127.0.0.1]:PORT/photo",
        "http://2130706433:PORT/photo",
        "http://0x7f.1:PORT/photo",
        "http://0177.0.0.1:PORT/photo",
        "http://127.1:PORT/photo",
        "http://0:PORT/photo",
        "http://169.254.169.254/latest/meta-data/",
        "http://no-such-name.invalid/photo",
        "http://127.0.0.2:PORT/to/http:!!127.0.0.1:PORT!photo",
        "http://127.0.0.2:PORT/to/!!localhost:PORT!photo",
    ],
)
def test_addresses_inside_are_refused_in_the_same_words(fetch: Callable[..., bytes], url: str) -> None:
    with pytest.raises(InputError) as fault:
        fetch(url)
    assert str(fault.value) == (
        "image 1: the URL's host does not lead to a public address; send the photo itself"
    )


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("file:///etc/passwd", "only http and https URLs are fetched"),
        ("ftp://127.0.0.2/photo", "only http and https URLs are fetched"),
        ("gopher://127.0.0.2:PORT/photo", "only http and https URLs are fetched"),
        ("http://127.0.0.2:PORT/to/file:!!!etc!passwd", "only http and https URLs are fetched"),
        ("http://127.0.0.2:PORT/to/ftp:!!127.0.0.2!photo", "only http and https URLs are fetched"),
        ("http://user:password@127.0.0.2:PORT/photo", "the URL is malformed"),
        ("http://127.0.0.2:99999/photo", "the URL is malformed"),
        ("http://127.0.0.2:PORT/pho to", "the URL is malformed"),
        ("http://127.0.0.2:PORT/pho\r\nHost: inside", "the URL is malformed"),
        ("http://[::1/photo", "the URL is malformed"),
        ("http:///photo", "the URL is malformed"),
        ("http://" + "a" * 5_000, "the URL is malformed"),
        ("http://127.0.0.2:PORT/loop", "redirected more than 3 times"),
        ("http://127.0.0.2:PORT/nothing", "the URL answers 404"),
        ("http://127.0.0.2:PORT/short", "broke off"),
        ("http://127.0.0.2:1/photo", "does not answer"),
        ("https://127.0.0.2:PORT/photo", "did not answer as it should"),
    ],
)
def test_other_faults(fetch: Callable[..., bytes], url: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as fault:
        fetch(url)
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize("path", ["drip", "drip-head"])
def test_a_server_that_drips_is_left(fetch: Callable[..., bytes], path: str) -> None:
    began = time.monotonic()
    with pytest.raises(InputError, match=r"took longer than 0\.5 s"):
        fetch(f"http://127.0.0.2:PORT/{path}", timeout=0.5)
    assert time.monotonic() - began < 5


def test_a_name_that_changes_its_address_changes_nothing(
    fetch: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name is looked up once, and the connection goes to the address that was checked."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def rebinding(host: str, port: int, *about: Any, **more: Any) -> Any:
        if host == "photos.example":
            asked.append(host)
            host = "127.0.0.2" if len(asked) == 1 else "127.0.0.1"
        return real(host, port, *about, **more)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    assert fetch("http://photos.example:PORT/photo").startswith(b"photos.example:")
    assert asked == ["photos.example"]
    with pytest.raises(InputError, match="public address"):
        fetch("http://photos.example:PORT/photo")


def test_a_name_with_one_address_inside_is_refused(
    fetch: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo

    def both(host: str, port: int, *about: Any, **more: Any) -> Any:
        if host == "both.example":
            return [*real("127.0.0.2", port, *about, **more), *real("127.0.0.1", port, *about, **more)]
        return real(host, port, *about, **more)

    monkeypatch.setattr(fetching.socket, "getaddrinfo", both)
    with pytest.raises(InputError, match="public address"):
        fetch("http://both.example:PORT/photo")
