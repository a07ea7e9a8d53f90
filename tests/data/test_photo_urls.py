"""Photos fetched from a real web server on this machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from layouts import encoded, photo

from clearcap.data.fetch import fetch
from clearcap.data.images import open_image
from clearcap.errors import InputError

PHOTO = encoded(photo(4), "PNG")


class Pages(BaseHTTPRequestHandler):
    patience = threading.Event()

    def do_GET(self) -> None:
        if self.path == "/slow.png":
            self.patience.wait(10)
            return
        if self.path == "/away.png":
            self.send_response(302)
            self.send_header("Location", "/gr%C3%BCn.png")
            self.end_headers()
            return
        if self.path not in ("/gr%C3%BCn.png", "/short.png", "/page.png"):
            self.send_error(404)
            return
        body = b"<html>" if self.path == "/page.png" else PHOTO
        self.send_response(200)
        self.send_header("Content-Length", str(len(body) + (50 if self.path == "/short.png" else 0)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    Pages.patience.clear()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as http:
        http.daemon_threads = True
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        Pages.patience.set()
        http.shutdown()
        thread.join()


def test_a_url_is_a_photo(server: str) -> None:
    for name in ("grün.png", "gr%C3%BCn.png", "away.png"):
        np.testing.assert_array_equal(np.asarray(open_image(f"{server}/{name}")), np.asarray(photo(4)))


@pytest.mark.parametrize(
    ("name", "fault"),
    [("no.png", "404"), ("short.png", "broke off after"), ("page.png", "not an image")],
)
def test_a_bad_answer_is_one_sentence_that_names_the_url(server: str, name: str, fault: str) -> None:
    with pytest.raises(InputError, match=fault) as caught:
        open_image(f"{server}/{name}")
    assert f"{server}/{name}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_too_long_too_slow_and_not_there(server: str) -> None:
    with pytest.raises(InputError, match="longer than 100 bytes"):
        fetch(f"{server}/gr%C3%BCn.png", max_bytes=100)
    with pytest.raises(InputError, match="timed out"):
        fetch(f"{server}/slow.png", timeout=0.05)
    with pytest.raises(InputError, match="cannot be fetched"):
        fetch("http://127.0.0.1:1/a.png", timeout=2.0)
    with pytest.raises(InputError, match="cannot be fetched"):
        fetch("http://[::1/a.png")
