"""A photo's bytes from a URL, within a time and a size."""

from __future__ import annotations

import base64
import binascii
import time
from http.client import HTTPException
from urllib.parse import quote, unquote_to_bytes, urlsplit
from urllib.request import Request, url2pathname, urlopen

from clearcap.errors import InputError

MAX_BYTES = 64 * 2**20
_CHUNK = 2**16
_READABLE = 160  # characters of a name in a message


def clipped(text: str) -> str:
    """A name short enough for a message: its middle left out where it is long."""
    if len(text) <= _READABLE:
        return text
    return f"{text[: _READABLE // 2]}...{text[-_READABLE // 4 :]} ({len(text):,} characters)"


def fetch(url: str, *, timeout: float = 20.0, max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes at a URL: http, https, file, data, or a scheme that fsspec knows (``s3``, ``gs``, ``hf`` ...).

    Args:
        url: the address; characters beyond ASCII are percent-encoded.
        timeout: seconds, for the whole transfer over http.
        max_bytes: longer answers are refused.

    Raises:
        InputError: an unknown scheme, no answer, an error, too slow, too long.
    """
    shown = clipped(" ".join(url.split()))
    scheme = url.partition(":")[0].lower()
    if scheme == "data":
        url = "".join(url.split())  # base64 is often broken into lines
    read = {"http": _from_web, "https": _from_web, "data": _from_data, "file": _from_file}.get(
        scheme, _from_fsspec
    )
    try:
        if not url.isprintable():
            raise ValueError("it has characters that no URL has")
        data = read(url, shown, timeout, max_bytes)
    except InputError:
        raise
    except _FAULTS as error:
        fault = clipped(" ".join(str(error).split()) or type(error).__name__)
        raise InputError(f"{shown} cannot be fetched ({fault}); check the address") from error
    if len(data) > max_bytes:
        raise InputError(f"{shown} is longer than {max_bytes:,} bytes; download it and scale it down")
    return data


_FAULTS = (OSError, HTTPException, ValueError)


def _from_web(url: str, shown: str, timeout: float, max_bytes: int) -> bytes:
    address = quote(url, safe=":/?#[]@!$&'()*+,;=%~-._")
    deadline = time.monotonic() + timeout
    with urlopen(Request(address, headers={"User-Agent": "clearcap"}), timeout=timeout) as response:
        if urlsplit(response.url).scheme not in ("http", "https"):  # urllib follows redirects to ftp
            raise InputError(
                f"{shown} leads to {response.url}, which is not http; download the photo yourself"
            )
        received = bytearray()
        while len(received) <= max_bytes and (chunk := response.read1(_CHUNK)):
            received += chunk
            if time.monotonic() > deadline:
                raise InputError(f"{shown} took longer than {timeout:g} s; try again or download it first")
        announced = response.headers.get("Content-Length")
    if announced is not None and announced.isdigit() and len(received) < min(int(announced), max_bytes):
        raise InputError(f"{shown} broke off after {len(received):,} of {announced} bytes; try again")
    return bytes(received)


def _from_data(url: str, shown: str, timeout: float, max_bytes: int) -> bytes:
    about, comma, data = url.partition(",")
    if not comma:
        raise InputError(f"{shown} has no comma before its data; write data:image/jpeg;base64,...")
    raw = unquote_to_bytes(data)
    if not about.lower().endswith(";base64"):
        return raw
    try:
        raw = raw.translate(bytes.maketrans(b"-_", b"+/")).rstrip(
            b"="
        )  # the alphabet for URLs, and no padding, too
        return base64.b64decode(raw + b"=" * (-len(raw) % 4), validate=True)
    except binascii.Error as error:
        raise InputError(f"{shown} is not base64 ({error}); encode the photo again") from error


def _from_file(url: str, shown: str, timeout: float, max_bytes: int) -> bytes:
    address = urlsplit(url)
    if address.netloc not in ("", "localhost"):
        raise InputError(f"{shown} is on another machine ({address.netloc}); copy the photo here")
    with open(url2pathname(address.path), "rb") as file:
        return file.read(max_bytes + 1)


def _from_fsspec(url: str, shown: str, timeout: float, max_bytes: int) -> bytes:
    try:
        import fsspec
    except ImportError as error:
        raise InputError(
            f"{shown}: http, https, file and data are read without help; pip install 'clearcap[fsspec]' for others"
        ) from error
    try:
        with fsspec.open(url, "rb") as file:
            return bytes(file.read(max_bytes + 1))
    except Exception as error:  # each file system raises its own, and ImportError where its client is absent
        fault = clipped(" ".join(str(error).split()) or type(error).__name__)
        raise InputError(f"{shown} cannot be fetched ({fault}); check the address") from error
