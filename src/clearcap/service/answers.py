"""What answers look like: the models that the OpenAPI description shows and that answers are checked by."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class Word(BaseModel):
    """A word of a caption."""

    word: str
    confidence: float = Field(description="its probability, 0 to 1")


class Caption(BaseModel):
    """One photo's caption."""

    image: str = Field(description="the file's name, or 'image N'")
    caption: str
    confidence: float = Field(description="mean probability of its words")
    words: list[Word]
    candidates: list[str] = Field(description="all captions sampled, in sampling order")


class Captions(BaseModel):
    """Captions of a request's photos, in their order."""

    model: str
    seed: int
    captions: list[Caption]


class Filled(BaseModel):
    """A caption with its blanks filled in."""

    image: str
    text: str
    words: list[str] = Field(description="what stands in each blank")
    confidence: float = Field(description="geometric mean of the filled words' probabilities")


class Filling(BaseModel):
    """A template filled in for each of a request's photos, in their order."""

    model: str
    seed: int
    filled: list[Filled]


class Model(BaseModel):
    """A model that captions."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "clearcap"
    image_size: int = Field(description="pixels a side that photos are squashed to")
    sampling: dict[str, bool | int | float | str] = Field(description="its sampling settings")


class Models(BaseModel):
    """The models at hand."""

    object: Literal["list"] = "list"
    data: list[Model]


class Status(BaseModel):
    """How the service is."""

    status: str


class Fault(BaseModel):
    """What was wrong, in one line."""

    message: str
    type: str
    code: int


class Error(BaseModel):
    """A request that was refused."""

    error: Fault
