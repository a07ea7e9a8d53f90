"""OpenAI's own Python client gets captions."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from benchmarks.served import Client, Service


@pytest.fixture
def chat(service: Service) -> Iterator[Any]:
    with openai.OpenAI(
        base_url=f"http://127.0.0.1:{service.port}/v1", api_key="none", max_retries=0
    ) as client:
        yield client


def message(*photos: bytes, text: str = "Describe this photo in one sentence.") -> Any:
    parts: list[dict[str, Any]] = [{"type": "text", "text": text}] if text else []
    for photo in photos:
        url = "data:image/jpeg;base64," + base64.b64encode(photo).decode()
        parts.append({"type": "image_url", "image_url": {"url": url, "detail": "low"}})
    return {"role": "user", "content": parts}


def captions(client: Client, photos: list[bytes], **how: Any) -> list[str]:
    answer = client.post_form("/v1/captions", photos, **how)
    return [one["caption"] for one in answer.json["captions"]]


def test_a_photo_is_captioned(chat: Any, client: Client, photos: list[bytes]) -> None:
    system = {"role": "system", "content": "You caption photos."}
    told = chat.chat.completions.create(
        model="default", messages=[system, message(photos[0])], max_tokens=50, temperature=0.7
    )
    (expected,) = captions(client, photos[:1])
    assert told.choices[0].message.content == expected
    assert told.choices[0].finish_reason == "stop"
    assert told.model == "default"
    assert told.usage.completion_tokens == len(expected.split())


def test_several_photos_are_lines_and_the_last_message_with_any_counts(
    chat: Any, client: Client, photos: list[bytes]
) -> None:
    talk = [
        message(photos[5]),
        {"role": "assistant", "content": "a photo"},
        message(*photos[:2]),
        {"role": "user", "content": "And?"},
    ]
    told = chat.chat.completions.create(model="default", messages=talk)
    assert told.choices[0].message.content.splitlines() == captions(client, photos[:2])


def test_seed_and_sampling_settings(chat: Any, client: Client, photos: list[bytes]) -> None:
    told = chat.chat.completions.create(
        model="default", messages=[message(photos[3])], seed=4, extra_body={"sampling": {"length": 5}}
    )
    assert told.choices[0].message.content == captions(client, [photos[3]], seed=4, length=5)[0]


def test_streaming(chat: Any, client: Client, photos: list[bytes]) -> None:
    stream = chat.chat.completions.create(
        model="default",
        messages=[message(photos[2], text="")],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    words = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert words == captions(client, [photos[2]])[0]
    assert chunks[-1].usage.completion_tokens == len(words.split())
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"


def test_models(chat: Any) -> None:
    assert [model.id for model in chat.models.list()] == ["default"]


@pytest.mark.parametrize(
    ("messages", "more", "kind", "message_says"),
    [
        ([{"role": "user", "content": "hello"}], {}, openai.BadRequestError, "no message has a photo"),
        ([message(b"no photo")], {}, openai.BadRequestError, "image 1 is not an image"),
        ([message()], {"n": 2}, openai.BadRequestError, "no message has a photo"),
        ([message(b"")], {"n": 2}, openai.BadRequestError, "a photo has one caption"),
        ([message(b"")], {"model": "gpt-9"}, openai.NotFoundError, "there is no model 'gpt-9'"),
        (
            [message(b"")],
            {"extra_body": {"sampling": {"banana": 1}}},
            openai.BadRequestError,
            "unknown sampling setting 'banana'",
        ),
        ([message(b"")], {"extra_body": {"sampling": 5}}, openai.BadRequestError, "is no object"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://[::1]/a"}}]}],
            {},
            openai.BadRequestError,
            "does not lead to a public address",
        ),
    ],
)
def test_refusals_are_the_clients_own_errors(
    chat: Any, messages: Any, more: dict[str, Any], kind: type[openai.APIStatusError], message_says: str
) -> None:
    with pytest.raises(kind, match=message_says):
        chat.chat.completions.create(**{"model": "default", "messages": messages, **more})
