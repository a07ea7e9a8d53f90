"""The web application: routes, their description, and what goes wrong in one line."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from clearcap.errors import InputError
from clearcap.pipeline import CaptionPipeline
from clearcap.service import openapi
from clearcap.service.answers import Captions, Filling, Models, Status
from clearcap.service.metrics import Metrics
from clearcap.service.observing import Observed
from clearcap.service.refusals import Refused, error_response
from clearcap.service.routes import Routes
from clearcap.service.settings import ServiceSettings
from clearcap.service.work import Work

ABOUT = 'Captions of photos, by diffusion. Every refusal is one line: `{"error": {"message": ...}}`.'


def build_app(pipeline: CaptionPipeline, settings: ServiceSettings) -> ASGIApp:
    """The application over a loaded captioner, which is warmed up."""
    metrics = Metrics()
    routes = Routes(Work(pipeline, settings), settings, metrics)
    began = int(time.time())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        routes.close()

    app = FastAPI(
        title="clearcap",
        version="1",  # of the routes, not of the package
        description=ABOUT,
        docs_url=None,  # the pages would load scripts of somebody else's
        redoc_url=None,
        lifespan=lifespan,
    )

    @app.post(
        "/v1/captions",
        response_model=Captions,
        responses=openapi.REFUSALS,
        openapi_extra=openapi.captions_request(),
    )
    async def captions(request: Request) -> Any:
        """Caption photos."""
        return await routes.captions(request)

    @app.post(
        "/v1/fill",
        response_model=Filling,
        responses=openapi.REFUSALS,
        openapi_extra=openapi.fill_request(),
    )
    async def fill(request: Request) -> Any:
        """Fill the blanks of a caption."""
        return await routes.fill(request)

    @app.post("/v1/chat/completions", responses=openapi.REFUSALS, openapi_extra=openapi.chat_request())
    async def chat(request: Request) -> Response:
        """Caption the photos of a chat, for OpenAI's clients."""
        return await routes.chat(request)

    @app.get("/v1/models", response_model=Models)
    async def models() -> Any:
        """The model that captions, under each of its names."""
        about = {
            "created": began,
            "image_size": pipeline.image_size,
            "sampling": asdict(pipeline.captioner.defaults),
        }
        return {"data": [{"id": name, **about} for name in settings.model_names]}

    @app.get("/health", response_model=Status)
    async def health() -> Any:
        """Whether the process answers."""
        return {"status": "ok"}

    @app.get("/ready", response_model=Status, responses={503: {"model": Status}})
    async def ready() -> Any:
        """Whether photos are captioned, and the queue takes more."""
        if routes.batcher.alive and routes.batcher.waiting < settings.queue:
            return {"status": "ready"}
        return JSONResponse({"status": "busy" if routes.batcher.alive else "stopping"}, 503)

    @app.get("/metrics", include_in_schema=False)
    async def prometheus() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def refused(request: Request, fault: Exception) -> Response:
        if isinstance(fault, Refused):
            return error_response(fault)
        if isinstance(fault, InputError):
            return error_response(Refused(400, str(fault)))
        if isinstance(fault, HTTPException):
            return error_response(Refused(fault.status_code, fault.detail, fault.headers))
        return error_response(Refused(500, "the service failed; its log says why"))

    for kind in (Refused, InputError, HTTPException, Exception):
        app.add_exception_handler(kind, refused)
    return Observed(app, metrics, settings.token)
