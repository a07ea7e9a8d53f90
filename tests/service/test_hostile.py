"""Requests that mean no good are refused, each in one line, and the service goes on."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from benchmarks.hostile import attacks, is_refused, redirecting_server, slow_attacks
from benchmarks.served import Client, Service

NAMES = attacks(2_000_000, "")


@pytest.fixture(scope="module")
def redirecting() -> Iterator[str]:
    with redirecting_server("http://127.0.0.1:1/photo.jpg") as url:
        yield url


@pytest.mark.parametrize("name", NAMES)
def test_hostile_requests_are_refused_in_a_line(service: Service, redirecting: str, name: str) -> None:
    answer = attacks(2_000_000, redirecting)[name](service.port)
    assert is_refused(answer), answer
    if name.startswith("huge"):
        assert answer.status == 413
    if name.startswith("inside"):
        assert "does not lead to a public address" in answer.fault


def test_slow_requests_are_refused_and_hold_nobody_up(
    service: Service, client: Client, photos: list[bytes]
) -> None:
    slow = slow_attacks(5)
    with ThreadPoolExecutor(len(slow)) as pool:
        running = {name: pool.submit(attack, service.port) for name, attack in slow.items()}
        assert client.post_form("/v1/captions", photos[:1]).status == 200
        for name, answer in running.items():
            assert is_refused(answer.result()), (name, answer.result())
            assert answer.result().status == 408


def test_it_still_captions(client: Client, photos: list[bytes]) -> None:
    assert client.post_form("/v1/captions", photos).status == 400  # 12 photos, of 8
    assert client.post_form("/v1/captions", photos[:8]).status == 200
