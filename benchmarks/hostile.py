"""Requests that mean no good, each of which a service must refuse in one line; to a service on loopback only."""

from __future__ import annotations

import base64
import io
import json
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias

from PIL import Image

from benchmarks.served import BOUNDARY, Answer, Client, form

Attack: TypeAlias = Callable[[int], Answer]
"""A port -> what the service there answered."""

FORM = f"multipart/form-data; boundary={BOUNDARY}"
HOST = b"Host: 127.0.0.1\r\n"


def sample_photo(side: int = 64) -> bytes:
    """A photo that is one."""
    data = io.BytesIO()
    Image.radial_gradient("L").resize((side, side)).convert("RGB").save(data, "JPEG")
    return data.getvalue()


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header promises a size, and whose pixels are missing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")


def posted(body: Any, kind: str = "application/json", path: str = "/v1/captions") -> Attack:
    """A request that is whole, whatever is in it."""

    def run(port: int) -> Answer:
        client = Client(port)
        try:
            return client.post(path, body, kind)
        finally:
            client.close()

    return run


def raw(*parts: bytes, pause: float = 0.0, end: float = 0.0) -> Attack:
    """Bytes sent as they are, paused before each further part; the last over and over for ``end`` seconds."""

    def run(port: int) -> Answer:
        with socket.create_connection(("127.0.0.1", port), timeout=300) as line:
            until = time.monotonic() + end
            with suppress(OSError):  # hung up on, with the answer still to be read
                line.sendall(parts[0])
                for part in parts[1:]:
                    time.sleep(pause)
                    line.sendall(part)
                while time.monotonic() < until:
                    time.sleep(pause)
                    line.sendall(parts[-1])
            return read_answer(line)

    return run


def read_answer(line: socket.socket) -> Answer:
    """The answer on a connection, which ends after it or is hung up; status 0 where there is none."""
    data = b""
    with suppress(OSError):
        while not _whole(data) and (got := line.recv(65_536)):
            data += got
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    words, headers = lines[0].split(), _headers(lines)
    if headers.get("transfer-encoding") == "chunked":
        body = body.partition(b"\r\n")[2].partition(b"\r\n")[0]  # one line is one chunk
    return Answer(int(words[1]) if len(words) > 1 else 0, headers, body)


def _whole(data: bytes) -> bool:
    """Whether an answer says how long it is, and is."""
    head, end, body = data.partition(b"\r\n\r\n")
    length = _headers(head.decode("latin-1").split("\r\n")).get("content-length")
    return bool(end) and length is not None and len(body) >= int(length)


def _headers(lines: list[str]) -> dict[str, str]:
    return {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in lines[1:])}


def attacks(max_bytes: int, redirecting: str) -> dict[str, Attack]:
    """Hostile requests by name, none of which takes the service long.

    Args:
        max_bytes: of a request, as the service was told.
        redirecting: URL of a server that ``redirecting_server`` runs.
    """
    photo = sample_photo()
    head = b"POST /v1/captions HTTP/1.1\r\n" + HOST
    json_head = head + b"Content-Type: application/json\r\n"
    piece = b"10000\r\n" + b"a" * 65_536 + b"\r\n"
    url = {"image": "http://127.0.0.1:1/photo.jpg"}
    return {
        "huge, announced": raw(json_head + b"Content-Length: 99999999999\r\n\r\n"),
        "huge, sent": posted(b"a" * (max_bytes + 1)),
        "huge, in chunks": raw(
            json_head + b"Transfer-Encoding: chunked\r\n\r\n",
            *[piece] * (max_bytes // 65_536 + 2),
            b"0\r\n\r\n",
        ),
        "a photo cut in half": posted(form([sample_photo(256)[:2_000]]), FORM),
        "an empty photo": posted(form([b""]), FORM),
        "a text as photo": posted(form([b"I am a photo.\n" * 50]), FORM),
        "a program as photo": posted(form([b"\x7fELF" + bytes(range(256)) * 9]), FORM),
        "a bomb of pixels": posted(form([png_of_size(60_000, 60_000)]), FORM),
        "no pixels": posted(form([png_of_size(0, 0)]), FORM),
        "an svg": posted(
            form([b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc'/></svg>"]), FORM
        ),
        "postscript": posted(form([b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n"]), FORM),
        "a form that breaks off": posted(form([photo])[:-30], FORM),
        "a form without boundary": posted(form([photo]), "multipart/form-data"),
        "a form with another boundary": posted(form([photo]), "multipart/form-data; boundary=other"),
        "a form without photos": posted(form([], seed=1), FORM),
        "a form of a thousand fields": posted(form([photo], **{f"field{n}": 1 for n in range(1_000)}), FORM),
        "a form of a thousand photos": posted(form([b"a"] * 1_000), FORM),
        "another content type": posted(photo, "image/jpeg"),
        "text": posted(b"a photo, please", "text/plain"),
        "no JSON": posted(b"{'image': }"),
        "no body": posted(b""),
        "no UTF-8": posted(b'{"image": "\xff\xfe"}'),
        "JSON that is a list": posted([1, 2]),
        "deep JSON": posted(b"[" * 5_000 + b"]" * 5_000),
        "deep JSON in a field": posted(b'{"image": ' + b'{"a":' * 4_000 + b"1" + b"}" * 4_001),
        "deep JSON without end": posted(b"[" * 500_000),
        "wide JSON": posted(b'{"image": [' + b"{}," * 300_000 + b"1]}"),
        "a number of many digits": posted(b'{"image": "", "seed": ' + b"9" * 10_000 + b"}"),
        "an image that is a number": posted({"image": 5}),
        "images that are an object": posted({"images": {"a": 1}}),
        "images that are null": posted({"images": [None]}),
        "image and images": posted({"image": "a", "images": []}),
        "no base64": posted({"image": "a photo!"}),
        "base64 of nothing": posted({"image": ""}),
        "a data URI without data": posted({"image": "data:image/jpeg;base64"}),
        "a data URI of text": posted({"image": "data:text/plain,hello"}),
        "too many photos": posted({"images": [base64.b64encode(photo).decode()] * 100}),
        "no such setting": posted({"image": "", "os.system": "ls"}),
        "settings without end": posted({"image": base64.b64encode(photo).decode(), "candidates": 10**12}),
        "steps that are a list": posted({"image": base64.b64encode(photo).decode(), "steps": [[]]}),
        "a length without end": posted(form([photo], length=10**15), FORM),
        "a template without end": posted(form([photo], template="___{1,1000000} " * 60), FORM, "/v1/fill"),
        "a chat without photo": posted(
            {"messages": [{"role": "user", "content": "hi"}]}, path="/v1/chat/completions"
        ),
        "a chat of nonsense": posted({"messages": [[], 5]}, path="/v1/chat/completions"),
        "inside by number": posted(url),
        "inside by name": posted({"image": "http://localhost:1/photo.jpg"}),
        "inside by a long number": posted({"image": "http://2130706433/photo.jpg"}),
        "inside by IPv6": posted({"image": "http://[::ffff:7f00:1]/photo.jpg"}),
        "a cloud's own address": posted({"image": "http://169.254.169.254/latest/meta-data/"}),
        "inside by redirect": posted({"image": redirecting}),
        "a file": posted({"image": "file:///etc/passwd"}),
        "a file in a chat": posted(
            {"messages": [{"content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}]},
            path="/v1/chat/completions",
        ),
        "gopher": posted({"image": "gopher://127.0.0.1:6379/_FLUSHALL"}),
        "another method": raw(b"DELETE /v1/captions HTTP/1.1\r\n" + HOST + b"\r\n"),
        "another path": posted(b"", path="/v1/../../etc/passwd"),
        "no HTTP": raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20 + b"\r\n\r\n"),
        "no HTTP at all": raw(b"photo please\r\n\r\n"),
        "an endless head": raw(head + b"X: " + b"a" * 200_000),
        "two lengths": raw(json_head + b"Content-Length: 2\r\nContent-Length: 30\r\n\r\n{}"),
        "a length that is none": raw(json_head + b"Content-Length: many\r\n\r\n{}"),
        "a chunk that is none": raw(json_head + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n{}\r\n0\r\n\r\n"),
    }


def slow_attacks(patience: float) -> dict[str, Attack]:
    """Hostile requests that arrive too slowly for a service that waits so many seconds."""
    head = b"POST /v1/captions HTTP/1.1\r\n" + HOST
    json_head = head + b"Content-Type: application/json\r\n"
    return {
        "a slow body": raw(json_head + b"Content-Length: 100000\r\n\r\n", b"a", pause=0.25, end=2 * patience),
        "a slow body in chunks": raw(
            json_head + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n", pause=0.25, end=2 * patience
        ),
        "a body that never comes": raw(json_head + b"Content-Length: 9\r\n\r\n"),
        "a slow head": raw(head + b"X: ", b"a", pause=0.25, end=2 * patience),
        "a head that never ends": raw(head),
        "nothing": raw(b""),
    }


def is_refused(answer: Answer) -> bool:
    """Whether an answer is 4xx in one line."""
    try:
        text = answer.body.decode()
        line = json.loads(text)["error"]["message"] if text.startswith("{") else text
    except (ValueError, KeyError):
        return False
    return 400 <= answer.status < 500 and bool(line.strip()) and "\n" not in line.strip()


@contextmanager
def redirecting_server(target: str) -> Iterator[str]:
    """A server at 127.0.0.2 that sends everybody elsewhere; its URL."""

    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", target)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *about: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.2", 0), Elsewhere)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.2:{server.server_address[1]}/photo.jpg"
    finally:
        server.shutdown()
        server.server_close()
