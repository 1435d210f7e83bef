"""Weights, where they lie, the claims printed about them, and the documents that print the claims."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

_STRICT = {"strict": True, "extra": "forbid"}  # for pydantic, which only the reader of the TOML files imports

Colour = tuple[float, float, float]

# Who spells a tensor's name so. torchvision, Facebook, GluonCV's ports and the Res2Net authors spell as timm does;
# "legacy" is Cadene's spelling and that of timm's legacy_*.
Dialect = Literal["timm", "legacy", "mmpretrain", "paddleclas"]

# SPDX identifiers; "LicenseRef-unknown" where whoever publishes the file states none
Licence = Literal["Apache-2.0", "BSD-3-Clause", "CC-BY-NC-4.0", "CC-BY-NC-SA-4.0", "LicenseRef-unknown"]

HUB = "hf:"  # begins an address on the Hugging Face hub: hf:owner/name, whose file is model.safetensors


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
class Input:
    """How the publisher makes a net's input of a picture, in the words of `anabranch.images.preprocess.Preprocess`.

    `Preprocess(**dataclasses.asdict(input))` does it.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    crop_px: int
    resize_px: int
    fit: Literal["shorter-side", "squash"] = "shorter-side"
    resampler: Literal["pillow-bilinear", "pillow-bicubic", "opencv-bilinear", "opencv-bicubic"] = "pillow-bilinear"
    rounding: Literal["torchvision", "paddleclas"] = "torchvision"
    mean: Colour = (0.485, 0.456, 0.406)  # of red, green and blue in 0..1
    std: Colour = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """One published set of weights, called `architecture.tag`."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    name: str
    publisher: str
    dialect: Dialect
    licence: Licence
    input: Input
    test_input: Input | None = None  # a larger one that the publisher tests at too
    urls: tuple[str, ...] = ()  # tried in order: https://... or hf:owner/name
    sha256: str | None = None  # hexadecimal, whole or its first digits, of the file at the https addresses
    aliases: tuple[str, ...] = ()  # other names that mean these weights
    homonyms: tuple[str, ...] = ()  # names printed for these weights that mean something else here
    claims: tuple[Claim, ...] = ()

    @property
    def architecture(self) -> str:
        return self.name.partition(".")[0]

    @property
    def tag(self) -> str:
        return self.name.partition(".")[2]

    @property
    def non_commercial(self) -> bool:
        """Whether the licence forbids commercial use; an unknown licence says nothing of it."""
        return "-NC" in self.licence

    def sha256_of(self, url: str) -> str | None:
        """The published digits for the file at this address; the hub's safetensors is another file than the .pth."""
        return None if url.startswith(HUB) else self.sha256
