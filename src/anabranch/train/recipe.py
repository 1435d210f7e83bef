"""The recipe: everything that decides a training run, read strictly from TOML.

Unknown keys are refused with the nearest known one; `--set a.b=value` overrides one key and is held to the same rules.
The `[smoke]` table holds such overrides for a run of well under a minute.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from anabranch.errors import DatasetError, RecipeError, nearest
from anabranch.images.idx import IMAGES
from anabranch.train.tables import Recipe

HELD_OUT = 0.2  # of pictures that come in one piece
_TESTED = ("val", "valid", "validation", "test")  # what people call the other piece


def read_recipe(
    path: Path, *, overrides: Sequence[str] = (), smoke: bool = False, pictures: Path | None = None
) -> Recipe:
    """Read a recipe and lay over it the folder of `pictures`, its `[smoke]`, and `key.key=value` overrides, in order.

    Raises RecipeError, ArchError, DatasetError where there is no such folder.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror}); give the path of a recipe in TOML") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not TOML: {error}") from None
    if pictures is not None:
        table["data"] = _pointed(table.get("data"), pictures)
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


def _pointed(data: Any, pictures: Path) -> dict[str, Any]:
    """The recipe's [data] with the pictures of this folder, or of this list file.

    A folder that holds a split for training is used as that, and another split of it to test on; of a set that is in
    one piece a fifth is held out.
    """
    told = dict(data) if isinstance(data, Mapping) else {}
    train, test = (dict(told.pop(part, None) or {}) for part in ("train", "test"))
    told.pop("hold_out", None)
    if not pictures.exists():
        raise DatasetError(f"{pictures}: no such folder or list; give where your pictures are")
    inside = {entry.name for entry in pictures.iterdir()} if pictures.is_dir() else set()
    if any(IMAGES.fullmatch(name) or name.endswith(".tar") for name in inside):  # which say themselves what is what
        return {**told, "train": {**train, "path": str(pictures)}, "test": {**test, "path": str(pictures)}}
    learnt = train.get("split") or "train"
    tested = next((name for name in (test.get("split"), *_TESTED) if name in inside), None)
    if learnt not in inside:
        return {**told, "train": {"path": str(pictures)}, "hold_out": HELD_OUT}
    source = {"path": str(pictures), "split": learnt}
    if tested is None:
        return {**told, "train": source, "hold_out": HELD_OUT}
    return {**told, "train": source, "test": {"path": str(pictures), "split": tested}}


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
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


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
        told = model.model_fields[str(part)].annotation
        model = next(each for each in (told, *get_args(told)) if isinstance(each, type) and issubclass(each, BaseModel))
    return list(model.model_fields)
