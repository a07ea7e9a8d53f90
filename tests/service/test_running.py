"""Several workers, more requests than they can bear, a token, and an end under load."""

from __future__ import annotations

import base64
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from commands import clearcap

from benchmarks.served import Answer, Client, Service, children, running_service
from clearcap.pipeline import CaptionPipeline

TOKEN = {"Authorization": "Bearer tell-nobody"}


@pytest.fixture(scope="module")
def workers() -> Iterator[Service]:
    """Two workers with short queues, behind a token."""
    options = ("--workers", 2, "--queue", 4, "--max-images", 4, "--batch-size", 2, "--timeout", 300)
    environment = {"CLEARCAP_TOKEN": "tell-nobody"}
    with running_service("--model", "default", *options, environment=environment) as started:
        yield started


def until(true: Callable[[], bool], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_token_is_asked_of_everybody_but_the_watchmen(workers: Service, photos: list[bytes]) -> None:
    stranger = workers.client()
    assert stranger.get("/health").status == 200
    assert stranger.get("/ready").status == 200
    for path in ("/metrics", "/v1/models", "/openapi.json", "/nothing"):
        assert stranger.get(path).status == 401
    refused = stranger.post_form("/v1/captions", photos[:1])
    assert refused.status == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    assert refused.fault == "the bearer token is missing or wrong"
    for wrong in ("Bearer tell-nobod", "Basic tell-nobody", "tell-nobody", "Bearer", "Bearer tell-nobody2"):
        assert workers.client(headers={"Authorization": wrong}).get("/v1/models").status == 401
    assert workers.client(headers=TOKEN).get("/v1/models").status == 200
    assert "tell-nobody" not in workers.log.read_text()


def test_overload_is_answered_and_no_answer_is_wrong(
    workers: Service, photos: list[bytes], pipeline: CaptionPipeline
) -> None:
    """Ninety-six clients at once, of which the queues hold eight."""
    expected = [one.caption for one in pipeline(photos, candidates=8)]
    before = workers.megabytes()

    def ask(number: int) -> tuple[int, Answer]:
        photo = number % len(photos)
        client = workers.client(headers=TOKEN)
        try:
            return photo, client.post_form("/v1/captions", [photos[photo]], candidates=8)
        finally:
            client.close()

    with ThreadPoolExecutor(96) as pool:
        answers = list(pool.map(ask, range(192)))
    assert {answer.status for _, answer in answers} == {200, 429}
    for photo, answer in answers:
        if answer.status == 200:
            assert answer.json["captions"][0]["caption"] == expected[photo]
        else:
            assert int(answer.headers["retry-after"]) >= 1
            assert "photos wait already, of 4" in answer.fault
    assert workers.megabytes() < before + 150
    pids = {event["pid"] for event in workers.events() if event.get("photos")}
    assert len(pids) == 2  # both had their share
    text = workers.client(headers=TOKEN).get("/metrics").body.decode()
    counted = re.findall(r'clearcap_requests_total\{route="/v1/captions",status="(200|429)"\} (\S+)', text)
    assert sum(float(count) for _, count in counted) == 192  # of both workers, whoever is asked


def test_a_worker_that_dies_is_replaced(workers: Service, photos: list[bytes]) -> None:
    def captioning() -> set[int]:
        return {
            event["pid"] for event in workers.events() if event["event"] == "Application startup complete."
        }

    first = captioning()
    os.kill(next(iter(first)), signal.SIGKILL)
    until(lambda: len(captioning()) == 3)
    assert workers.client(headers=TOKEN).post_form("/v1/captions", photos[:1]).status == 200


def test_workers_stop_when_told(workers: Service) -> None:
    mine = children(workers.process.pid)
    assert workers.stop() == 0
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in mine))


def test_an_end_under_load_answers_all_that_was_accepted(photos: list[bytes]) -> None:
    with running_service("--model", "default", "--batch-size", 2, "--timeout", 300) as service:

        def ask(photo: bytes) -> Answer:
            return service.client().post_form("/v1/captions", [photo], candidates=40)

        watch: Client = service.client()
        with ThreadPoolExecutor(len(photos)) as pool:
            answers = [pool.submit(ask, photo) for photo in photos]
            until(
                lambda: service.metric("clearcap_open_requests", watch) >= len(photos) + 1
            )  # and the question itself
            service.process.send_signal(signal.SIGTERM)
            assert [answer.result().status for answer in answers] == [200] * len(photos)
        assert service.process.wait(240) == 0
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", service.port), 5)


def test_urls_are_refused_unless_they_are_allowed(photos: list[bytes]) -> None:
    with running_service("--model", "default", "--name", "captions", "--name", "gpt-4o") as service:
        client = service.client()
        answer = client.post("/v1/captions", {"image": "http://127.0.0.1/photo.jpg"})
        assert answer.status == 400
        assert answer.fault == "image 1: URLs are not fetched here; send the photo itself"
        photo = base64.b64encode(photos[0]).decode()
        named = [
            client.post("/v1/captions", {"image": photo, "model": name}) for name in ("captions", "gpt-4o")
        ]
        assert [one.json["model"] for one in named] == ["captions", "gpt-4o"]
        assert client.post("/v1/captions", {"image": photo, "model": "default"}).status == 404


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--model", "no/such/folder"), "no/such/folder"),
        (("--port", "70000"), "port=70000 must be at most 65535"),
        (("--workers", "0"), "workers=0 must be at least 1"),
        (("--queue", "4"), "max_images=16 photos of one request do not fit a queue of 4; raise queue"),
        (("--allow-network", "10.0.0.0/8"), "but URLs are refused; pass allow_urls too"),
        (("--allow-urls", "--allow-network", "ten"), "write 10.1.0.0/16 or fd00::/8"),
        (("--token", "two words"), "has printable ASCII characters and no space"),
    ],
)
def test_what_cannot_be_served_is_one_line(options: tuple[str, ...], line: str) -> None:
    done = clearcap("serve", *options)
    assert done.returncode == 1
    assert done.stderr.startswith("clearcap: ")
    assert line in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_port_that_is_taken_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = clearcap("serve", "--port", port)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert f"127.0.0.1:{port} cannot be listened at" in done.stderr


def test_workers_that_die_as_they_start_stop_the_service(tmp_path: Path) -> None:
    plugin = tmp_path / "dies.py"
    plugin.write_text("import multiprocessing, os\nif multiprocessing.parent_process():\n    os._exit(9)\n")
    done = clearcap("--plugin", str(plugin), "serve", "--port", "0", "--workers", "2")
    assert done.returncode == 1, done.stderr
    assert "workers die as fast as they are started" in done.stderr
    # three deaths of each of two; one look may find both dead, the seventh beside the sixth
    assert done.stderr.count('"exit": 9') in (6, 7)


def test_workers_that_cannot_load_the_model_stop_the_service() -> None:
    done = clearcap("serve", "--port", 0, "--workers", 2, "--model", "no/such/folder")
    assert done.returncode == 1
    assert "clearcap: no/such/folder" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("absent", ["fastapi", "uvicorn", "prometheus_client", "python_multipart"])
def test_without_the_extra_it_says_so_in_one_line(absent: str, tmp_path: Path) -> None:
    (tmp_path / "without.py").write_text(f"import sys\nsys.modules[{absent!r}] = None\n")
    done = clearcap("--plugin", tmp_path / "without.py", "serve")
    assert done.returncode == 1
    assert done.stderr == (
        f"clearcap: clearcap serve needs {absent}, which is not installed; pip install 'clearcap[serve]'\n"
    )
