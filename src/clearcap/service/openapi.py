"""What the OpenAPI description says of requests; its examples are run by the tests."""

from __future__ import annotations

import base64
import dataclasses
import io
from functools import cache
from typing import Any

from PIL import Image

from clearcap.config import ALIASES, SamplingConfig
from clearcap.service.answers import Error

TYPES = {"int": "integer", "float": "number", "bool": "boolean", "str": "string"}
REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": Error, "description": "a photo, setting or body that cannot be; the message says why"},
    401: {"model": Error, "description": "the bearer token is missing or wrong"},
    404: {"model": Error, "description": "another model than this service's"},
    408: {"model": Error, "description": "the request took too long to arrive"},
    413: {"model": Error, "description": "the request is too long"},
    415: {"model": Error, "description": "neither a form nor JSON"},
    429: {"model": Error, "description": "the queue is full; Retry-After says when to come back"},
    503: {"model": Error, "description": "the photo waited too long, or the service is stopping"},
}
PHOTO = {"type": "string", "description": "base64, a data URI, or (with --allow-urls) an http(s) URL"}
MODEL = {"type": "string", "description": "one of /v1/models; default the only one"}
SEED = {"type": "integer", "minimum": 0, "default": 0, "description": "same seed, same caption"}
TEMPLATE = {
    "type": "string",
    "description": "a caption with blanks: ___ is one word, ___{1,3} one to three",
}


@cache
def example_photo() -> str:
    """A tiny photo as a data URI."""
    data = io.BytesIO()
    Image.linear_gradient("L").resize((8, 8)).save(data, "PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


def sampling_schema() -> dict[str, Any]:
    """Every sampling setting with its help."""
    found: dict[str, Any] = {}
    for one in dataclasses.fields(SamplingConfig):
        found[one.name] = {"type": TYPES[str(one.type)], "description": one.metadata["help"]}
        if one.metadata["choices"]:
            found[one.name]["enum"] = list(one.metadata["choices"])
    for alias, name in ALIASES.items():
        found[alias] = {**found[name], "description": f"diffusers' name of {name}"}
    return found


def _body(
    required: list[str], fields: dict[str, Any], examples: dict[str, Any], form: bool = True
) -> dict[str, Any]:
    schema = {"type": "object", "required": required, "properties": fields}
    content: dict[str, Any] = {"application/json": {"schema": schema, "examples": examples}}
    if form:
        files = {"type": "array", "items": {"type": "string", "format": "binary"}}
        texts = {name: value for name, value in fields.items() if name not in ("image", "images")}
        content["multipart/form-data"] = {
            "schema": {
                "type": "object",
                "required": ["image", *(name for name in required)],
                "properties": {"image": files, **texts},
            }
        }
    return {"requestBody": {"required": True, "content": content}}


def captions_request() -> dict[str, Any]:
    """Of ``POST /v1/captions``."""
    photo = example_photo()
    fields = {
        "image": PHOTO,
        "images": {"type": "array", "items": PHOTO, "description": "several photos, instead of image"},
        "model": MODEL,
        "seed": SEED,
        **sampling_schema(),
    }
    examples = {
        "one": {"summary": "One photo", "value": {"image": photo}},
        "several": {"summary": "Several photos", "value": {"images": [photo, photo]}},
        "settings": {
            "summary": "The best of four, six words long",
            "value": {"image": photo, "seed": 1, "candidates": 4, "select": "mbr", "length": 6},
        },
    }
    return _body([], fields, examples)


def fill_request() -> dict[str, Any]:
    """Of ``POST /v1/fill``."""
    photo = example_photo()
    fields = {
        "image": PHOTO,
        "images": {"type": "array", "items": PHOTO, "description": "several photos, instead of image"},
        "template": TEMPLATE,
        "model": MODEL,
        "seed": SEED,
        **sampling_schema(),
    }
    examples = {
        "blanks": {
            "summary": "Two blanks",
            "value": {"image": photo, "template": "a ___ in a ___"},
        },
        "beginning": {
            "summary": "A caption that begins with given words",
            "value": {"image": photo, "template": "two dogs ___{2,4}"},
        },
    }
    return _body(["template"], fields, examples)


def chat_request() -> dict[str, Any]:
    """Of ``POST /v1/chat/completions``."""
    photo = example_photo()
    part = {"type": "image_url", "image_url": {"url": photo}}
    text = {"type": "text", "text": "Describe this photo."}
    fields = {
        "model": MODEL,
        "messages": {
            "type": "array",
            "description": "the last one with image_url parts is captioned, a line a photo; words do nothing",
            "items": {"type": "object"},
        },
        "seed": SEED,
        "stream": {"type": "boolean", "default": False, "description": "answer in server-sent events"},
        "sampling": {
            "type": "object",
            "properties": sampling_schema(),
            "description": "sampling settings; temperature and the like do nothing",
        },
    }
    examples = {
        "photo": {
            "summary": "A photo, and words that many tools send with it",
            "value": {"messages": [{"role": "user", "content": [text, part]}]},
        },
        "settings": {
            "summary": "Fewer steps",
            "value": {"messages": [{"role": "user", "content": [part]}], "sampling": {"steps": 5}},
        },
    }
    return _body(["messages"], fields, examples, form=False)
