"""A photo's bytes from an http(s) URL, within a time and a size."""

from __future__ import annotations

import time
from http.client import HTTPException
from urllib.parse import quote, urlsplit
from urllib.request import Request, urlopen

from clearcap.errors import InputError

MAX_BYTES = 64 * 2**20
_CHUNK = 2**16


def is_url(text: str) -> bool:
    """Whether `text` is written as a URL (any scheme) rather than as a path."""
    return "://" in text


def fetch(url: str, *, timeout: float = 20.0, max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes at an http(s) URL.

    Args:
        url: the address; characters beyond ASCII are percent-encoded.
        timeout: seconds, for the whole transfer.
        max_bytes: longer answers are refused.

    Raises:
        InputError: another scheme, no answer, an HTTP error, too slow, too long.
    """
    if not url.isprintable() or url.partition("://")[0].lower() not in ("http", "https"):
        raise InputError(
            f"{' '.join(url.split())}: only http and https URLs are fetched; pass a path otherwise"
        )
    address = quote(url, safe=":/?#[]@!$&'()*+,;=%~-._")
    deadline = time.monotonic() + timeout
    try:
        with urlopen(Request(address, headers={"User-Agent": "clearcap"}), timeout=timeout) as response:
            if urlsplit(response.url).scheme not in ("http", "https"):  # urllib follows redirects to ftp
                raise InputError(
                    f"{url} leads to {response.url}, which is not http; download the photo yourself"
                )
            received = bytearray()
            while chunk := response.read1(_CHUNK):
                received += chunk
                if len(received) > max_bytes:
                    raise InputError(
                        f"{url} is longer than {max_bytes:,} bytes; download it and scale it down"
                    )
                if time.monotonic() > deadline:
                    raise InputError(f"{url} took longer than {timeout:g} s; try again or download it first")
            announced = response.headers.get("Content-Length")
    except InputError:
        raise
    except (OSError, HTTPException, ValueError) as error:
        fault = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{url} cannot be fetched ({fault}); check the address and the connection"
        ) from error
    if announced is not None and announced.isdigit() and len(received) < int(announced):
        raise InputError(f"{url} broke off after {len(received):,} of {announced} bytes; try again")
    return bytes(received)
