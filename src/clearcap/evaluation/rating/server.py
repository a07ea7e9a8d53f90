"""The rating page, served to browsers of this machine."""

from __future__ import annotations

import json
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from clearcap.errors import InputError
from clearcap.evaluation.rating.answers import Answers, rater_named
from clearcap.evaluation.rating.plan import SCALES, Plan, photo_file

LONGEST = 10_000  # bytes of an answer
SECONDS = 30  # that a browser may take over a request
ALONE = "default-src 'none'; img-src 'self'; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def make_server(plan: Plan, out: Path, host: str, port: int) -> ThreadingHTTPServer:
    """A server of the page; ``serve_forever`` runs it, ``server_address`` says where.

    Args:
        plan: what is rated.
        out: folder of the rating, where answers go.
        host, port: address to listen at; port 0 takes a free one.

    Raises:
        InputError: the address is taken, or the answers that are there cannot be read.
    """
    answers = Answers(out, len(plan.items))
    try:
        return ThreadingHTTPServer((host, port), partial(Page, plan, out, answers))
    except OSError as fault:
        raise InputError(f"{host}:{port} cannot be listened at ({fault.strerror}); pass --port 0") from fault


def told_to(plan: Plan, answers: Answers, rater: str) -> dict[str, Any]:
    """All that the page of a rater needs: photos, captions without their writers, and what was answered already."""
    shown = [
        {"photo": photo, "captions": [{"item": n, "text": plan.items[n].caption} for n in items]}
        for photo, items in plan.shown_to(rater)
    ]
    return {"rater": rater, "scales": SCALES, "photos": shown, "answers": answers.of(rater)}


class Page(BaseHTTPRequestHandler):
    """Answers the page's requests: the page, a rater's plan, photos, and answers to be kept."""

    timeout = SECONDS

    def __init__(self, plan: Plan, out: Path, answers: Answers, *request: Any) -> None:
        self.plan, self.out, self.answers = plan, out, answers
        super().__init__(*request)

    def do_GET(self) -> None:
        """The page, ``/plan?rater=NAME`` or ``/photos/N.jpg``."""
        url = urlsplit(self.path)
        if url.path == "/":
            page = resources.files("clearcap.evaluation.rating").joinpath("page.html").read_bytes()
            self._send(200, page, "text/html; charset=utf-8")
        elif url.path == "/plan":
            try:
                rater = rater_named(parse_qs(url.query).get("rater", [""])[0])
                self._json(200, told_to(self.plan, self.answers, rater))
            except InputError as fault:
                self._json(422, {"fault": str(fault)})
        elif url.path in {f"/photos/{place}.jpg" for place in range(len(self.plan.photos))}:
            place = int(Path(url.path).stem)
            self._send(200, photo_file(self.out, place).read_bytes(), "image/jpeg")
        else:
            self._json(404, {"fault": "there is nothing here"})

    def do_POST(self) -> None:
        """An answer to ``/answers``, as JSON: a form of another site's page cannot send that.

        An InputError is told to the page, not raised.
        """
        length = self.headers.get("Content-Length", "")
        if self.path != "/answers" or self.headers.get_content_type() != "application/json":
            self.close_connection = True
            return self._json(404, {"fault": "answers go to /answers as application/json"})
        if not length.isdecimal() or int(length) > LONGEST:
            self.close_connection = True
            return self._json(413, {"fault": f"an answer has {LONGEST} bytes at most"})
        try:
            record = json.loads(self.rfile.read(int(length)))
            if not isinstance(record, dict):
                raise InputError("an answer is an object")
            self._json(200, {"kept": self.answers.keep(record)})
        except InputError as fault:
            self._json(422, {"fault": str(fault)})
        except ValueError as fault:
            self._json(422, {"fault": f"not valid JSON ({fault})"})

    def log_message(self, *words: Any) -> None:
        """Nothing: the terminal shows where the page is."""

    def _json(self, status: int, value: Any) -> None:
        self._send(status, json.dumps(value, ensure_ascii=False).encode(), "application/json")

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            ("Content-Security-Policy", ALONE),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
