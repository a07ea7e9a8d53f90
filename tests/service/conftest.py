"""A real service, one for all tests that do not break it, and photos to send."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.served import Client, Service, running_service
from clearcap.pipeline import CaptionPipeline


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    """Patient with captions, as tests share a machine. URLs may lead to 127.0.0.2 as to public addresses."""
    urls = ("--allow-urls", "--allow-network", "127.0.0.2/32")
    limits = ("--max-bytes", 2_000_000, "--max-pixels", 4_000_000, "--max-images", 8, "--queue", 256)
    times = ("--upload-timeout", 5, "--timeout", 300)
    with running_service("--model", "default", *urls, *limits, *times) as started:
        yield started


@pytest.fixture(scope="session")
def pipeline() -> CaptionPipeline:
    """What the service is to say, said in Python."""
    return CaptionPipeline.from_pretrained("default", backend="fast")


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    found = service.client()
    yield found
    found.close()


@pytest.fixture(scope="session")
def photos() -> list[bytes]:
    """Encoded photos that differ: smooth colours, JPEG and PNG."""
    found = []
    for number in range(12):
        generator = np.random.default_rng(number)
        small = Image.fromarray(generator.integers(0, 256, (5, 7, 3), np.uint8))
        data = io.BytesIO()
        small.resize((320, 240), Image.Resampling.BICUBIC).save(data, "PNG" if number % 3 == 2 else "JPEG")
        found.append(data.getvalue())
    return found


@pytest.fixture(scope="session")
def real_photos(shared: Path) -> list[Path]:
    """Two hundred photos of Flickr8k."""
    found = sorted((shared / "data" / "flickr8k" / "Images").glob("*.jpg"))[:200]
    if len(found) < 200:
        pytest.skip("the shared data folder has no 200 photos of Flickr8k")
    return found
