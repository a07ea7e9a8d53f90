"""What is written of a caption: words before and after it, or a template around it."""

from __future__ import annotations

import string
from dataclasses import dataclass
from pathlib import PurePosixPath

from clearcap.errors import InputError

FIELDS = ("caption", "name", "folder", "confidence")


@dataclass(frozen=True)
class Wording:
    """``prefix`` + ``template`` + ``suffix``.

    Attributes:
        prefix: before everything.
        suffix: after everything.
        template: text with ``{caption}`` in it and, if wanted, ``{name}`` (the photo's, without suffix), ``{folder}``
            (the name of what holds the photo) or ``{confidence:.2f}``; ``{{`` is a brace.
    """

    prefix: str = ""
    suffix: str = ""
    template: str = "{caption}"

    def __post_init__(self) -> None:
        try:
            named = [field for _, field, _, _ in string.Formatter().parse(self.template) if field is not None]
            unknown = [field for field in named if field not in FIELDS]
            if not unknown:
                self("a caption", "folder/name.jpg", 0.5)
        except ValueError as error:
            raise InputError(
                f"template={self.template!r} cannot be filled in ({error}); write {{{{ and }}}} for braces"
            ) from error
        if unknown:
            fields = ", ".join(f"{{{name}}}" for name in FIELDS)
            raise InputError(
                f"template={self.template!r} has no field {{{unknown[0]}}} to fill; use {fields}"
            )

    def __call__(self, caption: str, image: str, confidence: float) -> str:
        """The caption of a photo as it is written."""
        place = PurePosixPath(image.replace("\\", "/"))
        told = self.template.format(
            caption=caption, name=place.stem, folder=place.parent.name, confidence=confidence
        )
        return f"{self.prefix}{told}{self.suffix}"
