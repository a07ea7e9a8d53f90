"""The protocol of OpenAI's chat completions, spoken by tools that caption photos: a photo comes, its caption goes."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from typing import Any

from clearcap.errors import InputError
from clearcap.service.uploads import Upload, read_upload


def photos_of(request: Mapping[str, Any], max_images: int) -> list[Upload]:
    """The photos of the last message that has any.

    Raises:
        InputError: no messages, no photo, or too many.
    """
    messages = request.get("messages")
    if not isinstance(messages, list) or not all(isinstance(one, Mapping) for one in messages):
        raise InputError("no messages; pass a list of them")
    for message in reversed(messages):
        parts = message.get("content")
        parts = parts if isinstance(parts, list) else []
        found = [
            part
            for part in parts
            if isinstance(part, Mapping) and part.get("type") in ("image_url", "input_image")
        ]
        if len(found) > max_images:
            raise InputError(f"{len(found)} photos are more than {max_images}; send them in several requests")
        if found:
            return [read_upload(_address(part), f"image {number}") for number, part in enumerate(found, 1)]
    raise InputError(
        "no message has a photo; send a part {'type': 'image_url', 'image_url': {'url': 'data:image/jpeg;base64,...'}}"
    )


def _address(part: Mapping[str, Any]) -> Any:
    given = part.get("image_url")
    return given.get("url") if isinstance(given, Mapping) else given


def sampling_of(request: Mapping[str, Any]) -> dict[str, Any]:
    """The seed and, from the object ``sampling``, the sampling settings; the protocol's own settings of text
    generators (temperature, max_tokens ...) and words beside the photo do nothing.

    Raises:
        InputError: ``sampling`` is no object, or several choices are asked for.
    """
    given = request.get("sampling", {})
    if not isinstance(given, Mapping):
        raise InputError("'sampling' is no object; pass {'sampling': {'steps': 5}}")
    if request.get("n") not in (None, 1):
        raise InputError("n: a photo has one caption; ask /v1/captions for candidates")
    seed = request.get("seed")
    return {**given, **({} if seed is None else {"seed": seed})}


def completion(model: str, text: str) -> dict[str, Any]:
    """A whole answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {**_head(model, "chat.completion"), "choices": [choice], "usage": _usage(text)}


def completion_stream(model: str, text: str, *, usage: bool = False) -> str:
    """The same as server-sent events; all words are there at once, so the caption is one of them."""
    head = _head(model, "chat.completion.chunk")
    deltas: list[tuple[dict[str, str], str | None]] = [
        ({"role": "assistant", "content": ""}, None),
        ({"content": text}, None),
        ({}, "stop"),
    ]
    chunks = [
        {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
        for delta, reason in deltas
    ]
    if usage:
        chunks.append({**head, "choices": [], "usage": _usage(text)})
    return "".join(f"data: {data}\n\n" for data in [*map(json.dumps, chunks), "[DONE]"])


def _head(model: str, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


def _usage(text: str) -> dict[str, int]:
    words = len(text.split())
    return {"prompt_tokens": 0, "completion_tokens": words, "total_tokens": words}
