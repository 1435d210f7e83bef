"""The recipe: everything that decides a training run, read strictly from TOML.

Unknown keys are refused with the nearest known one; `--set a.b=value` overrides one key and is held to the same rules.
The `[smoke]` table holds such overrides for a run of well under a minute.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from anabranch.arch import Arch, arch, arch_from_json
from anabranch.errors import RecipeError, nearest
from anabranch.images.preprocess import Preprocess

Probability = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Source(_Table):
    """A labelled set, as `images.open_labelled` takes it."""

    path: str
    split: str | None = None
    labels: str | None = None


class Data(_Table):
    train: Source
    test: Source
    class_names: tuple[str, ...] | None = None  # where the set itself has none


class Input(_Table):
    """What the trained net will eat; see `images.Preprocess`."""

    crop_px: Positive
    resize_px: Positive
    fit: Literal["shorter-side", "squash"] = "shorter-side"
    resampler: str = "pillow-bilinear"
    rounding: Literal["torchvision", "paddleclas"] = "torchvision"
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def preprocess(self) -> Preprocess:
        return Preprocess(**self.model_dump())


class Net(_Table):
    """Arguments of `build`."""

    dropout: Probability = 0.0
    drop_path: Probability = 0.0
    zero_gamma: bool = False


class Augment(_Table):
    """What happens to a training picture.

    `crop = "random-resized"` takes a box of `scale` of the area at `aspect` (Szegedy et al. 2015); `crop = "padded"`
    takes the picture as it is tested, padded by `pad_px` of zeros and cropped anywhere (He et al. 2015, section 4.2).
    """

    crop: Literal["random-resized", "padded"] = "random-resized"
    scale: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (0.75, 4 / 3)
    pad_px: Annotated[int, Field(ge=0)] = 0
    flip: Annotated[float, Field(ge=0, le=1)] = 0.5
    erase: Annotated[float, Field(ge=0, le=1)] = 0.0
    mixup: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError("augment.scale wants two shares of the area, the smaller first, above 0 and at most 1")
        if not 0 < self.aspect[0] <= self.aspect[1]:
            raise ValueError("augment.aspect wants two ratios of width to height, the smaller first, above 0")
        if (self.pad_px > 0) != (self.crop == "padded"):
            raise ValueError('augment.pad_px belongs to augment.crop = "padded": at least 1 there, 0 elsewhere')
        return self


class Optimise(_Table):
    """SGD with momentum; the rate rises linearly over the warm-up and falls along a cosine to zero."""

    epochs: Positive
    batch: Positive  # over all processes
    lr: Annotated[float, Field(gt=0)]
    momentum: Probability = 0.9
    nesterov: bool = True
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    decay_norms: bool = False  # weight decay on norms and biases too
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    label_smoothing: Probability = 0.0
    ema_decay: Probability = 0.0
    steps_per_epoch: Positive | None = None  # None: once through the set


class Run(_Table):
    seed: Annotated[int, Field(ge=0)] = 0
    checkpoint_steps: Positive = 500  # optimiser steps between two checkpoints; every epoch's end makes one too
    channels_last: bool = True
    bf16: bool = False  # autocast; worth it only where the processor computes in bf16
    workers: Annotated[int, Field(ge=0)] = 0
    test_pictures: Positive | None = None  # None: all of them


class Recipe(_Table):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    expect: str  # the result to expect, its spread, and how long it takes where
    licence: str = "unknown"  # SPDX, of the weights that come out
    arch: str | dict[str, Any]
    net: Net = Net()
    data: Data
    input: Input
    augment: Augment = Augment()
    optimise: Optimise
    run: Run = Run()
    smoke: dict[str, Any] = {}

    def spec(self) -> Arch:
        return arch(self.arch) if isinstance(self.arch, str) else arch_from_json(self.arch)


def read_recipe(path: Path, *, overrides: Sequence[str] = (), smoke: bool = False) -> Recipe:
    """Read a recipe and lay `key.key=value` overrides over it, `[smoke]` first. Raises RecipeError, ArchError."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror}); give the path of a recipe in TOML") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not TOML: {error}") from None
    if smoke:
        if not isinstance(table.get("smoke"), dict) or not table["smoke"]:
            raise RecipeError(f"{path}: has no [smoke] table; run it without --smoke, or add one")
        for key, value in table["smoke"].items():
            _put(table, key, value, where=f"{path}, [smoke]")
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise RecipeError(f"--set {override}: wanted key=value, for instance --set optimise.epochs=3")
        _put(table, key.strip(), _value(text.strip()), where=f"--set {override}")
    recipe = recipe_from_json(table, where=str(path))
    recipe.spec()
    recipe.input.preprocess()
    return recipe


def recipe_from_json(table: Mapping[str, Any], *, where: str) -> Recipe:
    try:
        return Recipe.model_validate(_as_tuples(table), strict=True)
    except ValidationError as error:
        raise RecipeError(f"{where}: {_explain(error)}") from None


def _value(text: str) -> Any:
    """A TOML value, or the text itself where it is not one."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _put(table: dict[str, Any], dotted: str, value: Any, *, where: str) -> None:
    """Set `a.b.c` in nested tables. A key that no recipe has is refused when the whole is read."""
    *parents, last = dotted.split(".")
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise RecipeError(f"{where}: {parent!r} in {dotted!r} is a value, not a table")
    table[last] = value


def _as_tuples(value: Any) -> Any:
    """TOML's arrays as tuples, which strict validation wants; architectures keep their lists."""
    if isinstance(value, Mapping):
        return {key: item if key in ("arch", "smoke") else _as_tuples(item) for key, item in value.items()}
    return tuple(value) if isinstance(value, list) else value


def _explain(error: ValidationError) -> str:
    """Pydantic's findings as sentences, each unknown key with the nearest known ones."""
    sentences = []
    for finding in error.errors():
        place = ".".join(str(part) for part in finding["loc"])
        if finding["type"] == "extra_forbidden":
            known = _keys_at(finding["loc"][:-1])
            near = ", ".join(nearest(str(finding["loc"][-1]), known))
            sentences.append(f"there is no key {place!r}; the nearest are {near}")
        elif finding["type"] == "missing":
            sentences.append(f"the key {place!r} is missing")
        elif finding["type"] == "value_error":
            sentences.append(str(finding["ctx"]["error"]))
        else:
            sentences.append(f"{place} = {finding['input']!r} does not fit: {finding['msg']}")
    return "; ".join(sentences)


def _keys_at(place: tuple[int | str, ...]) -> list[str]:
    model: Any = Recipe
    for part in place:
        model = model.model_fields[str(part)].annotation
    return list(model.model_fields)
