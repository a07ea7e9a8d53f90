"""What a real service answers: the same as Python and the command line, in any company."""

from __future__ import annotations

import base64
import json
import math
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import clearcap

from benchmarks.served import Client, Service
from clearcap.config import SamplingConfig
from clearcap.data.threads import set_threads
from clearcap.errors import InputError
from clearcap.pipeline import CaptionPipeline
from clearcap.service.work import caption_together


def uri(photo: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(photo).decode()


def test_a_form_a_data_uri_and_base64_have_the_caption_of_python(
    client: Client, pipeline: CaptionPipeline, photos: list[bytes]
) -> None:
    expected = pipeline(photos[0])
    form = client.post_form("/v1/captions", [photos[0]])
    assert form.status == 200
    assert form.headers["content-type"] == "application/json"
    (shown,) = form.json["captions"]
    assert shown["image"] == "1.jpg"
    assert shown["caption"] == expected.caption
    assert shown["candidates"] == list(expected.candidates)
    assert shown["confidence"] == pytest.approx(expected.confidence, abs=1e-4)
    assert [word["word"] for word in shown["words"]] == [word for word, _ in expected.words]
    for given in (uri(photos[0]), base64.b64encode(photos[0]).decode()):
        answer = client.post("/v1/captions", {"image": given})
        assert answer.json["captions"] == [{**shown, "image": "image 1"}]
    assert form.json["model"] == "default"


def test_settings_are_those_of_python(client: Client, pipeline: CaptionPipeline, photos: list[bytes]) -> None:
    how: dict[str, Any] = {"candidates": 3, "steps": 3, "length": 6, "select": "confidence"}
    expected = pipeline(photos[:3], seed=7, **how)
    answer = client.post("/v1/captions", {"images": list(map(uri, photos[:3])), "seed": 7, **how})
    assert answer.json["seed"] == 7
    assert [one["caption"] for one in answer.json["captions"]] == [one.caption for one in expected]
    assert [one["candidates"] for one in answer.json["captions"]] == [list(r.candidates) for r in expected]
    assert all(len(one["words"]) == 6 for one in answer.json["captions"])
    same = client.post_form("/v1/captions", photos[:3], seed=7, **how)
    assert [one["caption"] for one in same.json["captions"]] == [one.caption for one in expected]
    alias = client.post("/v1/captions", {"image": uri(photos[0]), "num_inference_steps": 1})
    assert alias.json["captions"][0]["caption"] == pipeline(photos[0], steps=1).caption


@pytest.mark.parametrize(
    "how",
    [
        {"steps": 0},
        {"steps": 10**6},
        {"solver": "nobody's"},
        {"guidance": -1.0},
        {"guidance": float("nan")},
        {"candidates": True},
        {"refine_share": 2.0},
        {"banana": 1},
        {"steps": 1, "num_inference_steps": 1},
        {"seed": -1},
        {"seed": 2**63},
    ],
)
def test_settings_are_refused_in_the_same_words(
    client: Client, pipeline: CaptionPipeline, photos: list[bytes], how: dict[str, Any]
) -> None:
    with pytest.raises(InputError) as fault:
        pipeline(photos[0], **how)
    answer = client.post("/v1/captions", {"image": uri(photos[0]), **how})
    assert answer.status == 400
    assert answer.fault == " ".join(str(fault.value).split())


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"steps": "five"}, "sampling.steps='five' must be of type int"),
        ({"steps": 2.5}, "sampling.steps=2.5 must be of type int"),
        ({"steps": [1]}, "sampling.steps=[1] must be of type int"),
        ({"solver": 1}, "sampling.solver=1 must be of type str"),
        ({"seed": "zero"}, "seed='zero' must be of type int"),
        ({"seed": None}, "seed=None must be of type int"),
        ({"self": 1}, "unknown sampling setting 'self'; choose among "),
        ({"images": "", "batch_size": 1}, "pass 'image' or 'images', not both"),
        ({"batch_size": 1}, "unknown sampling setting 'batch_size'; choose among "),
    ],
)
def test_values_of_another_type_are_refused(
    client: Client, photos: list[bytes], how: dict[str, Any], message: str
) -> None:
    answer = client.post("/v1/captions", {"image": uri(photos[0]), **how})
    assert answer.status == 400
    assert answer.fault.startswith(message)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"length": 10**9}, "captions of this model have at most"),
        ({"max_length": 10**9, "length": 5, "min_length": 5}, "captions of this model have at most"),
        ({"candidates": 10**9}, "ask for fewer candidates or steps"),
        ({"refine": 10**9}, "ask for fewer candidates or steps"),
        ({"steps": 1, "spacing": "stride", "candidates": 4}, "ask for fewer candidates or steps"),
        ({"candidates": 2, "select": "similarity"}, "needs a CLIP"),
        ({"candidates": 2, "select": "neighbours"}, "chooses among remembered captions"),
    ],
)
def test_what_would_take_forever_is_refused(
    client: Client, photos: list[bytes], how: dict[str, Any], message: str
) -> None:
    answer = client.post("/v1/captions", {"image": uri(photos[0]), **how})
    assert answer.status == 400
    assert message in answer.fault


def test_blanks_are_filled_as_in_python(
    client: Client, pipeline: CaptionPipeline, photos: list[bytes]
) -> None:
    for template in ("a ___ in a ___", "a man ___{1,3}", "___{4}"):
        expected = pipeline.fill(photos[1], template, seed=3)
        answer = client.post_form("/v1/fill", photos[1:3], template=template, seed=3)
        assert answer.status == 200
        first, second = answer.json["filled"]
        assert first["text"] == expected.text
        assert tuple(first["words"]) == expected.words
        assert first["confidence"] == pytest.approx(expected.confidence, abs=1e-4)
        assert second["text"] == pipeline.fill(photos[2], template, seed=3).text


def test_numbers_without_end_are_refused(client: Client, photos: list[bytes]) -> None:
    asked = {"image": uri(photos[0]), "template": "a ___ in a ___", "guidance": 1e300}
    answer = client.post("/v1/fill", asked)
    assert answer.status == 400
    assert "lead to no number" in answer.fault


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "no template"),
        ("", "no template"),
        (5, "no template"),
        ("a man", "nothing to fill"),
        ("a ___{3,1}", "contradict"),
        ("a ___ \N{DOG} runs", "no word '\N{DOG}'"),
        ("___ " * 100, "positions"),
        ("___{1,1000} ___{1,1000} " + "a " * 14, "too wide together"),
        ("___ " + "a" * 2_000, "shorten it"),
    ],
)
def test_templates_that_cannot_be(client: Client, photos: list[bytes], template: Any, message: str) -> None:
    answer = client.post("/v1/fill", {"image": uri(photos[0]), "template": template})
    assert answer.status == 400
    assert message in answer.fault


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_a_photo_a_thread_is_captioned_by_one_thread_each(pipeline: CaptionPipeline, count: int) -> None:
    set_threads(2)
    used: list[int] = []
    photos = list(np.random.default_rng(0).integers(0, 256, (count, 224, 224, 3), np.uint8))
    graph = pipeline.captioner.vision.graph

    def noted(*arguments: Any) -> Any:
        used.append(graph.session.get_session_options().intra_op_num_threads)
        return graph(*arguments)

    pipeline.captioner.vision.graph = noted
    try:
        together = caption_together(pipeline, photos, 3, seed=3, steps=1)
    finally:
        pipeline.captioner.vision.graph = graph
    assert used == ([2] if count == 1 else [1] * max(2, math.ceil(count / 3)))
    alone = [pipeline(photo, seed=3, steps=1) for photo in photos]
    assert [one.candidates for one in together] == [one.candidates for one in alone]


def test_company_changes_nothing(client: Client, service: Service, photos: list[bytes]) -> None:
    """Photos sent one at a time, and all at once with other seeds and settings between them."""
    requests = [
        (photo, how)
        for photo in photos
        for how in ({}, {"seed": 5}, {"steps": 1}, {"candidates": 2}, {"length": 5})
    ]

    def ask(request: tuple[bytes, dict[str, int]], over: Client | None = None) -> Any:
        photo, how = request
        asking = over or service.client()
        answer = asking.post("/v1/captions", {"image": uri(photo), **how})
        assert answer.status == 200, answer.body
        return answer.json["captions"][0]["candidates"]

    alone = [ask(request, client) for request in requests]
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, requests)) == alone
    assert len({caption for candidates in alone for caption in candidates}) > 10


@pytest.mark.shared
def test_the_same_captions_as_the_command_line_for_200_photos_under_32_clients(
    service: Service, real_photos: list[Path], tmp_path: Path
) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join(map(str, real_photos)))
    done = clearcap("caption", f"@{names}", "--model", "default", "--json")
    assert done.returncode == 0, done.stderr
    expected = [json.loads(line) for line in done.stdout.splitlines()]

    def ask(path: Path) -> Any:
        answer = service.client().post_form("/v1/captions", [path.read_bytes()])
        assert answer.status == 200, answer.body
        return answer.json["captions"][0]

    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(ask, real_photos))
    assert [one["caption"] for one in found] == [one["caption"] for one in expected]
    gaps = [abs(a["confidence"] - b["confidence"]) for a, b in zip(found, expected, strict=True)]
    assert max(gaps) <= 1.01e-4  # rounding
    batches = service.metric("clearcap_batch_photos_count")
    assert service.metric("clearcap_photos_total") > 1.5 * batches  # photos of a forward pass


def test_what_else_it_says(client: Client, pipeline: CaptionPipeline) -> None:
    assert client.get("/health").json == {"status": "ok"}
    assert client.get("/ready").json == {"status": "ready"}
    (model,) = client.get("/v1/models").json["data"]
    assert model["id"] == "default"
    assert model["sampling"]["steps"] == pipeline.sampling().steps
    missing = client.get("/v2/captions")
    assert missing.status == 404
    assert missing.fault == "Not Found"
    assert client.get("/v1/captions").status == 405
    wrong = client.post("/v1/captions", {"image": "aaaa", "model": "gpt-9"})
    assert wrong.status == 404
    assert wrong.fault == "there is no model 'gpt-9' here; choose default"


def test_the_examples_of_the_description_run(client: Client) -> None:
    described = client.get("/openapi.json").json
    run = 0
    for path, about in described["paths"].items():
        body = about.get("post", {}).get("requestBody", {})
        for example in body.get("content", {}).get("application/json", {}).get("examples", {}).values():
            answer = client.post(path, example["value"])
            assert answer.status == 200, (path, example, answer.body)
            run += 1
    assert run >= 7
    fields = described["paths"]["/v1/captions"]["post"]["requestBody"]["content"]["application/json"]
    assert set(SamplingConfig.__dataclass_fields__) <= set(fields["schema"]["properties"])


def test_metrics_count_requests_and_photos(client: Client, service: Service, photos: list[bytes]) -> None:
    names = (
        "clearcap_photos_total",
        'clearcap_requests_total{route="/v1/captions",status="200"}',
        'clearcap_requests_total{route="/v1/captions",status="400"}',
        'clearcap_requests_total{route="other",status="404"}',
    )
    before = [service.metric(name) for name in names]
    client.post_form("/v1/captions", photos[:3])
    client.post_form("/v1/captions", [b"no photo"])
    client.get("/somewhere/else")
    assert [service.metric(name) - was for name, was in zip(names, before, strict=True)] == [3, 1, 1, 1]
    assert service.metric("clearcap_waiting_photos") == 0


def test_logs_say_what_happened_and_nothing_of_the_photo(
    client: Client, service: Service, photos: list[bytes]
) -> None:
    secret = base64.b64encode(b"a secret that looks like a photo").decode()
    head = {"X-Request-ID": "mine-1"}
    answer = client.post("/v1/captions", {"image": secret, "banana": secret}, **head)
    assert answer.status == 400
    assert answer.headers["x-request-id"] == "mine-1"
    forged = client.post("/v1/captions", {"image": secret}, **{"X-Request-ID": 'a" b'})
    assert re.fullmatch("[0-9a-f]{32}", forged.headers["x-request-id"])
    good = client.post_form("/v1/captions", photos[:2])
    events = {event["request"]: event for event in service.events() if event["event"] == "request"}
    told = events["mine-1"]
    assert (told["method"], told["route"], told["status"]) == ("POST", "/v1/captions", 400)
    assert events[good.headers["x-request-id"]]["photos"] == 2
    assert events[good.headers["x-request-id"]]["ms"] > 0
    log = service.log.read_text()
    assert secret not in log
    assert "1.jpg" not in log
    assert good.json["captions"][0]["caption"] not in log
