"""What a request holds: photos and fields, from a form or from JSON, within limits that hold before it is parsed."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import FormParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from clearcap.data.fetch import fetch
from clearcap.data.images import PhotoBytes
from clearcap.errors import InputError
from clearcap.service.refusals import Refused, busy

MAX_VALUES = 10_000  # of a JSON body: each takes more memory than its two bytes
MAX_FIELD = 10_000  # bytes of a form's field that is no photo


@dataclass(frozen=True)
class PhotoURL:
    """A photo that is still to be fetched."""

    url: str
    name: str


Upload: TypeAlias = PhotoBytes | PhotoURL


@dataclass
class Form:
    """A request that was read.

    Attributes:
        photos: as they came.
        fields: everything else; JSON's values, or texts of a form.
        texts: whether fields are texts.
    """

    photos: list[Upload] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)
    texts: bool = False


class Reading:
    """The bytes that all requests of a worker hold while they are read and decoded."""

    def __init__(self, max_memory: int) -> None:
        """Nothing is being read yet."""
        self._left = max_memory

    @contextmanager
    def reserved(self, size: int) -> Iterator[None]:
        """So many bytes, until the block ends. Raises Refused (429) where there are no more."""
        self._take(size)
        try:
            yield
        finally:
            self._left += size

    def _take(self, size: int) -> None:
        if size > self._left:
            raise busy("too many large requests at once", 1)
        self._left -= size

    @asynccontextmanager
    async def body(self, request: Request, max_bytes: int, seconds: float) -> AsyncIterator[bytearray]:
        """A request's body; its memory counts until the block ends.

        Raises:
            Refused: too long (413), too slow (408), broken off (400), or too much at once (429).
        """
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > max_bytes:
            raise _too_long(max_bytes)
        data = bytearray()
        try:
            try:
                async with asyncio.timeout(seconds):
                    async for chunk in request.stream():
                        if len(data) + len(chunk) > max_bytes:
                            raise _too_long(max_bytes)
                        self._take(len(chunk))
                        data += chunk
            except TimeoutError as error:
                message = f"the request took longer than {seconds:g} s to arrive; send it faster"
                raise Refused(408, message) from error
            except ClientDisconnect as error:
                raise Refused(400, "the request broke off; send all of it") from error
            yield data
        finally:
            self._left += len(data)


def _too_long(max_bytes: int) -> Refused:
    return Refused(
        413, f"the request is longer than {max_bytes:,} bytes; scale the photo down, or send fewer"
    )


def parse(content_type: str, body: bytes | bytearray, *, max_images: int) -> Form:
    """A form or a JSON object.

    Raises:
        Refused: another content type (415), or a malformed body (400).
    """
    kind, options = parse_options_header(content_type)
    if kind == b"multipart/form-data":
        return parse_multipart(body, options.get(b"boundary", b""), max_images=max_images)
    fields = parse_json(content_type, body)
    if "image" in fields and "images" in fields:
        raise InputError("pass 'image' or 'images', not both")
    given = fields.pop("images", fields.pop("image", []))
    given = given if isinstance(given, list) else [given]
    _check_count(len(given), max_images)
    photos = [read_upload(one, f"image {number}") for number, one in enumerate(given, 1)]
    return Form(photos, fields)


def parse_json(content_type: str, body: bytes | bytearray) -> dict[str, Any]:
    """A JSON object. Raises Refused where it is none."""
    kind, _ = parse_options_header(content_type)
    if kind not in (b"application/json", b""):
        raise Refused(
            415,
            "the content type is neither multipart/form-data nor application/json; send one of them",
        )
    if sum(map(body.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise Refused(400, f"the JSON holds more than {MAX_VALUES:,} values; send photos as base64")
    try:
        value = json.loads(body)
    except (
        ValueError,
        RecursionError,
    ) as error:  # ValueError: numbers of thousands of digits, wrong UTF-8, too
        raise Refused(400, f"the body is not JSON ({_reason(error)}); check it") from error
    if not isinstance(value, dict):
        raise Refused(400, "the body is no JSON object; send {...}")
    return value


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos}"
    return "nested too deeply" if isinstance(error, RecursionError) else "it cannot be decoded"


def parse_multipart(body: bytes | bytearray, boundary: bytes, *, max_images: int) -> Form:
    """A form: ``image`` fields are photos, the others texts. Raises Refused where it is malformed."""
    form, files = Form(texts=True), []

    def add_field(one: Any) -> None:
        name, value = _text(one.field_name), one.value or b""
        if name == "image":
            files.append((None, bytes(value)))
        elif name in form.fields:
            raise InputError(f"the field {name!r} is given twice; give it once")
        elif len(value) > MAX_FIELD:
            raise InputError(f"the field {name!r} is longer than {MAX_FIELD:,} bytes; shorten it")
        else:
            form.fields[name] = _text(value)

    def add_file(one: Any) -> None:
        if _text(one.field_name) != "image":
            raise InputError(f"the file field {_text(one.field_name)!r} is not known; call photos 'image'")
        one.file_object.seek(0)
        files.append((one.file_name, one.file_object.read()))

    if not boundary:
        raise Refused(400, "the form has no boundary; leave the content type to your client")
    config = {"MAX_MEMORY_FILE_SIZE": len(body) + 1, "MAX_FIELDS": max_images + 64}  # never to disk
    try:
        parser = FormParser("multipart/form-data", add_field, add_file, boundary=boundary, config=config)
        parser.write(bytes(body))
        parser.finalize()
    except FormParserError as error:
        raise Refused(400, "the form is malformed; leave it to your client") from error
    if not body.rstrip().endswith(b"--" + boundary + b"--"):
        raise Refused(400, "the form broke off before its end; send all of it")
    _check_count(len(files), max_images)
    for number, (given, data) in enumerate(files, 1):
        form.photos.append(PhotoBytes(data, _text(given or b"").strip() or f"image {number}"))
    return form


def _text(data: bytes | None) -> str:
    """A form's text on one line."""
    text = (data or b"").decode("utf-8", "replace")
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _check_count(photos: int, max_images: int) -> None:
    if photos > max_images:
        raise InputError(f"{photos} photos are more than {max_images}; send them in several requests")


def read_upload(given: Any, name: str) -> Upload:
    """A photo that JSON holds: a data URI, a URL, or base64. Raises InputError."""
    if not isinstance(given, str):
        raise InputError(f"{name} is no text; send base64, a data URI or a URL")
    scheme = given[:5].lower()
    if scheme == "data:":
        try:
            return PhotoBytes(fetch(given), name)
        except InputError as error:  # which quotes the photo
            raise InputError(f"{name} is no data URI; write data:image/jpeg;base64,...") from error
    if "://" in given[:32]:
        return PhotoURL(given, name)
    try:
        return PhotoBytes(base64.b64decode(given, validate=True), name)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"{name} is neither base64, nor a data URI, nor a URL; encode the photo") from error
