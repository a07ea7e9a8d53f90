"""From a request to its answer: read, squash, queue, wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from clearcap.data.images import PhotoBytes
from clearcap.errors import InputError
from clearcap.pipeline.pipeline import CaptionResult
from clearcap.service import chat
from clearcap.service.batching import Batcher, Job
from clearcap.service.fetching import fetch_public
from clearcap.service.metrics import Metrics
from clearcap.service.refusals import Refused
from clearcap.service.settings import ServiceSettings
from clearcap.service.uploads import Form, PhotoURL, Reading, Upload, parse, parse_json
from clearcap.service.work import Work, lanes_of

T = TypeVar("T")

MAX_ROWS = 128  # sampled captions of a forward pass
DECODERS, FETCHERS = 2, 8  # threads; a photo of max_pixels takes each decoder 4 bytes a pixel


class Routes:
    """The routes that caption, over one captioner.

    Args:
        work: the captioner.
        settings: the limits.
        metrics: where photos are counted.
    """

    def __init__(self, work: Work, settings: ServiceSettings, metrics: Metrics) -> None:
        self._work, self._settings, self._metrics = work, settings, metrics
        self._reading = Reading(settings.max_memory)
        self._arriving = 0  # requests that are being read and decoded
        self._decoders = ThreadPoolExecutor(DECODERS, "decoding")
        self._fetchers = ThreadPoolExecutor(FETCHERS, "fetching")
        self._networks = settings.networks()
        lanes = lanes_of(work.pipeline)
        self.batcher = Batcher(
            batch_size=settings.batch_size * lanes,
            max_rows=MAX_ROWS * lanes,
            queue=settings.queue,
            wait=settings.batch_wait / 1000,
            arriving=lambda: self._arriving,
            observe=self._observe,
        )

    def _observe(self, photos: int, seconds: float) -> None:
        self._metrics.observe_batch(photos, seconds)
        self._metrics.waiting.set(self.batcher.waiting)

    def close(self) -> None:
        """Finish what was taken."""
        self.batcher.close()
        self._decoders.shutdown(wait=False)
        self._fetchers.shutdown(wait=False, cancel_futures=True)

    async def captions(self, request: Request) -> dict[str, Any]:
        """``POST /v1/captions``. Raises Refused, InputError."""

        async def prepare(data: bytearray, deadline: float) -> tuple[tuple[str, list[str], int], list[Job]]:
            form = await self._form(request, data)
            model = self._model(form.fields.pop("model", None))
            asked = self._work.asked(form.fields, texts=form.texts)
            photos = await self._squares(form.photos)
            jobs = [self._work.caption_job(photo, asked, deadline) for photo in photos]
            return (model, [photo.name for photo in form.photos], asked.seed), jobs

        (model, names, seed), results = await self._answer(request, prepare)
        shown = [_shown(name, result) for name, result in zip(names, results, strict=True)]
        return {"model": model, "seed": seed, "captions": shown}

    async def fill(self, request: Request) -> dict[str, Any]:
        """``POST /v1/fill``. Raises Refused, InputError."""

        async def prepare(data: bytearray, deadline: float) -> tuple[tuple[str, list[str], int], list[Job]]:
            form = await self._form(request, data)
            model = self._model(form.fields.pop("model", None))
            template = self._work.template(form.fields.pop("template", None))
            defaults = self._work.fill_defaults(template)
            asked = self._work.asked(form.fields, texts=form.texts, **defaults)
            photos = await self._squares(form.photos)

            def jobs_of() -> list[Job]:
                return [self._work.fill_job(photo, template, asked, deadline) for photo in photos]

            names = [photo.name for photo in form.photos]
            return (model, names, asked.seed), await self._decode(jobs_of)

        (model, names, seed), results = await self._answer(request, prepare)
        shown = [
            {"image": name, "text": one.text, "words": one.words, "confidence": round(one.confidence, 4)}
            for name, one in zip(names, results, strict=True)
        ]
        return {"model": model, "seed": seed, "filled": shown}

    async def chat(self, request: Request) -> Response:
        """``POST /v1/chat/completions``. Raises Refused, InputError."""

        async def prepare(data: bytearray, deadline: float) -> tuple[tuple[str, dict[str, Any]], list[Job]]:
            kind = request.headers.get("content-type", "")
            fields = await self._decode(lambda: parse_json(kind, data))
            model = self._model(fields.get("model"))
            given = await self._decode(lambda: chat.photos_of(fields, self._settings.max_images))
            asked = self._work.asked(chat.sampling_of(fields))
            photos = await self._squares(given)
            return (model, fields), [self._work.caption_job(photo, asked, deadline) for photo in photos]

        (model, fields), results = await self._answer(request, prepare)
        text = "\n".join(result.caption for result in results)
        if fields.get("stream") is True:
            options = fields.get("stream_options")
            usage = isinstance(options, dict) and options.get("include_usage") is True
            return Response(chat.completion_stream(model, text, usage=usage), media_type="text/event-stream")
        return JSONResponse(chat.completion(model, text))

    async def _answer(
        self, request: Request, prepare: Callable[[bytearray, float], Awaitable[tuple[T, list[Job]]]]
    ) -> tuple[T, list[Any]]:
        """What ``prepare`` makes of the body, beside jobs, and the jobs' results."""
        limits = self._settings
        deadline = time.monotonic() + limits.timeout
        self.batcher.check_room()
        self._arriving += 1
        try:
            async with self._reading.body(request, limits.max_bytes, limits.upload_timeout) as data:
                request.state.told = {"bytes": len(data)}
                told, jobs = await prepare(data, deadline)
        finally:
            self._arriving -= 1  # sooner than its photos are queued, or their batch would wait for itself
        request.state.told["photos"] = len(jobs)
        self.batcher.submit(jobs)
        self._metrics.waiting.set(self.batcher.waiting)
        return told, await self._results(request, jobs, deadline)

    async def _results(self, request: Request, jobs: Sequence[Job], deadline: float) -> list[Any]:
        """The results of jobs; should the time be over, or the client gone, those that wait are given up."""
        together = asyncio.gather(*(asyncio.wrap_future(job.done) for job in jobs))
        gone = asyncio.ensure_future(_disconnected(request))
        try:
            left = max(0.0, deadline - time.monotonic())
            first: list[asyncio.Future[Any]] = [together, gone]
            await asyncio.wait(first, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if together.done():
                return list(together.result())
            for job in jobs:
                job.done.cancel()
            if gone.done():
                raise Refused(499, "the client has gone")  # which nobody but the log hears
            seconds = self.batcher.retry_after()
            raise Refused(
                503,
                f"no caption within {self._settings.timeout:g} s; try again",
                {"Retry-After": str(seconds)},
            )
        finally:
            gone.cancel()
            together.cancel()

    async def _form(self, request: Request, data: bytearray) -> Form:
        kind = request.headers.get("content-type", "")
        form = await self._decode(lambda: parse(kind, data, max_images=self._settings.max_images))
        if not form.photos:
            raise InputError("no photo; send a form with fields 'image', or JSON with 'image' or 'images'")
        return form

    async def _squares(self, uploads: Sequence[Upload]) -> list[np.ndarray]:
        """Photos as the captioner sees them, one after the other. Raises InputError, Refused."""
        return [await self._square(upload) for upload in uploads]

    async def _square(self, upload: Upload) -> np.ndarray:
        if isinstance(upload, PhotoBytes):
            return await self._decode(lambda: self._work.square(upload))
        limits = self._settings
        if not limits.allow_urls:
            raise InputError(f"{upload.name}: URLs are not fetched here; send the photo itself")
        with self._reading.reserved(limits.max_bytes):
            photo = PhotoBytes(await self._fetch(upload), upload.name)
            return await self._decode(lambda: self._work.square(photo))

    async def _fetch(self, photo: PhotoURL) -> bytes:
        limits = self._settings

        def run() -> bytes:
            return fetch_public(
                photo.url,
                photo.name,
                timeout=limits.upload_timeout,
                max_bytes=limits.max_bytes,
                networks=self._networks,
            )

        try:
            async with asyncio.timeout(
                limits.upload_timeout + 1
            ):  # looking a name up has no limit of its own
                return await asyncio.get_running_loop().run_in_executor(self._fetchers, run)
        except TimeoutError as error:
            raise InputError(f"{photo.name}: its URL took too long; send the photo itself") from error

    async def _decode(self, run: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._decoders, run)

    def _model(self, given: Any) -> str:
        """What an answer calls the model. Raises Refused (404) for another."""
        names = self._settings.model_names
        if given is None or given in names:
            return names[0] if given is None else str(given)
        raise Refused(404, f"there is no model {given!r} here; choose {' or '.join(names)}")


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _shown(name: str, result: CaptionResult) -> dict[str, Any]:
    return {**result.to_json(), "image": name, "candidates": result.candidates}
