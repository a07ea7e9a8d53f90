"""A photo from the public web, for strangers: no URL of theirs leads into the network that the service is in."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import TypeAlias
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from clearcap.errors import InputError
from clearcap.service.settings import IPNetwork

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_REDIRECTS = 3
MAX_URL = 4_096
PORTS = {"http": 80, "https": 443}
TRANSLATED = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))  # NAT64


def fetch_public(
    url: str,
    name: str,
    *,
    timeout: float,
    max_bytes: int,
    networks: Sequence[IPNetwork] = (),
) -> bytes:
    """The bytes at an http or https URL whose host has public addresses only.

    The connection goes to an address that was checked, not to the name again, so that a name cannot change its address
    in between; every redirect is checked the same. Proxies of the environment are not used.

    Args:
        url: the address.
        name: what messages call the photo.
        timeout: seconds for everything.
        max_bytes: longer answers are refused.
        networks: addresses that are allowed beside public ones.

    Raises:
        InputError: not http, a host that is not public, an error, too slow, too long. It names no address.
    """
    deadline = time.monotonic() + timeout
    for _ in range(MAX_REDIRECTS + 1):
        parts = _checked(url, name)
        sock = _connect(parts, name, deadline, networks)
        with HungUp(sock, deadline) as line, closing(HTTPConnection(str(parts.hostname))) as connection:
            connection.auto_open = 0  # never by name
            connection.sock = sock
            try:
                if parts.scheme.lower() == "https":
                    context = ssl.create_default_context()
                    connection.sock = context.wrap_socket(sock, server_hostname=parts.hostname)
                response = _get(connection, parts)
                if response.status in (301, 302, 303, 307, 308) and response.headers.get("Location"):
                    url = urljoin(url, str(response.headers["Location"]))
                    continue
                data = _read(response, name, max_bytes)
                if line.late:  # what ends without a length looks whole
                    raise TimeoutError
                return data
            except (OSError, HTTPException, ValueError) as error:
                if isinstance(error, InputError) and not line.late:
                    raise
                fault = f"took longer than {timeout:g} s" if line.late else "did not answer as it should"
                raise InputError(f"{name}: the URL's host {fault}; send the photo itself") from error
    raise InputError(f"{name}: the URL is redirected more than {MAX_REDIRECTS} times; send its last address")


class HungUp:
    """A connection that ends at a deadline, whatever is said on it: a socket's own timeout begins anew with a byte."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        """Of ``time.monotonic``."""
        self.late = False
        self._line = sock.dup()  # TLS takes the socket itself away
        self._timer = threading.Timer(max(0.0, deadline - time.monotonic()), self._hang_up)
        self._timer.daemon = True

    def _hang_up(self) -> None:
        self.late = True
        with suppress(OSError):  # closed already
            self._line.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> HungUp:
        self._timer.start()
        return self

    def __exit__(self, *about: object) -> None:
        self._timer.cancel()
        self._line.close()


def is_public(address: IPAddress, networks: Sequence[IPNetwork] = ()) -> bool:
    """Whether a URL may lead to an address: a public one (no private, loopback, link-local, shared, multicast or
    reserved one, nor an IPv6 address that stands for such an IPv4 address), or one in ``networks``.
    """
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id or address.is_site_local:
            return False
        if address.ipv4_mapped:
            return is_public(address.ipv4_mapped, networks)
    if any(address in network for network in networks):
        return True
    if isinstance(address, ipaddress.IPv6Address) and (
        address.sixtofour or address.teredo or any(address in network for network in TRANSLATED)
    ):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _checked(url: str, name: str) -> SplitResult:
    """A URL's parts. Raises InputError."""
    malformed = InputError(f"{name}: the URL is malformed; write https://host/path")
    if len(url) > MAX_URL or not url.isprintable() or " " in url:
        raise malformed
    try:
        parts = urlsplit(url)
        known = parts.scheme.lower() in PORTS
        sound = (
            parts.hostname and parts.username is None and parts.port != 0 and parts.hostname.encode("idna")
        )
    except ValueError as error:
        raise malformed from error
    if not known:
        raise InputError(f"{name}: only http and https URLs are fetched; send the photo itself")
    if not sound:
        raise malformed
    return parts


def _connect(parts: SplitResult, name: str, deadline: float, networks: Sequence[IPNetwork]) -> socket.socket:
    """A connection to a checked address of the URL's host. Raises InputError."""
    host, port = str(parts.hostname), parts.port or PORTS[parts.scheme.lower()]
    refused = InputError(f"{name}: the URL's host does not lead to a public address; send the photo itself")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise refused from error  # the same words: which names exist inside is nobody's business
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if not addresses or not all(is_public(ipaddress.ip_address(one), networks) for one in addresses):
        raise refused
    for address in addresses:
        left = deadline - time.monotonic()
        if left <= 0:
            break
        with suppress(OSError):
            return socket.create_connection((address, port), timeout=left)
    raise InputError(f"{name}: the URL's host does not answer; send the photo itself")


def _get(connection: HTTPConnection, parts: SplitResult) -> HTTPResponse:
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    query = "?" + quote(parts.query, safe="/%:@!$&'()*+,;=~-._?") if parts.query else ""
    headers = {
        "Host": parts.netloc.encode("idna").decode(),
        "User-Agent": "clearcap",
        "Accept": "image/*",
        "Accept-Encoding": "identity",
        "Connection": "close",
    }
    connection.request("GET", path + query, headers=headers)
    return connection.getresponse()


def _read(response: HTTPResponse, name: str, max_bytes: int) -> bytes:
    if response.status != 200:
        raise InputError(f"{name}: the URL answers {response.status}; check it")
    data = response.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise InputError(f"{name}: the URL leads to more than {max_bytes:,} bytes; scale the photo down")
    if response.length:  # announced, but not sent
        raise InputError(f"{name}: the URL's answer broke off; try again")
    return data
