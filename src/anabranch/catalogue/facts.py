"""Weights, the claims printed about them, and the documents that print the claims."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

_STRICT = {"strict": True, "extra": "forbid"}  # for pydantic, which only the reader of the TOML files imports


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A page or file that prints claims."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    publisher: str
    title: str
    url: str | None = None
    quoted_by: str | None = None  # whose page printed it, where that is not the publisher's own

    def __str__(self) -> str:
        quoted = f", quoted by {self.quoted_by}" if self.quoted_by else ""
        publisher = "" if self.title.startswith(self.publisher) else f"{self.publisher} "
        return f"{publisher}{self.title}{quoted}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One printed row, its numbers as printed and only their units made one: never measured or corrected here.

    `flops_g` and `macs_g` are whatever their document printed under that heading.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    document: str  # key of documents.toml
    printed: str  # the name that stands there
    input_px: int
    top1: float | None = None  # percent, ImageNet-1k validation
    top5: float | None = None
    reference_top1: float | None = None  # what the document says others reach
    reference_top5: float | None = None
    flops_g: float | None = None
    macs_g: float | None = None
    params_m: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """One published set of weights, called `architecture.tag`."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    name: str
    publisher: str
    aliases: tuple[str, ...] = ()  # other names that mean these weights
    homonyms: tuple[str, ...] = ()  # names printed for these weights that mean something else here
    claims: tuple[Claim, ...] = ()

    @property
    def architecture(self) -> str:
        return self.name.partition(".")[0]

    @property
    def tag(self) -> str:
        return self.name.partition(".")[2]
