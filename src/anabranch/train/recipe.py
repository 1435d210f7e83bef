"""The recipe: everything that decides a training run, read strictly from TOML.

Unknown keys are refused with the nearest known one; `--set a.b=value` overrides one key and is held to the same rules.
The `[smoke]` table holds such overrides for a run of well under a minute; its keys are looked at in every run.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from functools import reduce
from operator import getitem
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from anabranch.errors import DatasetError, RecipeError, nearest, shown
from anabranch.images.files import is_hidden, is_picture
from anabranch.images.idx import IMAGES
from anabranch.images.imagenet import TRUTH
from anabranch.images.labelled import are_packed
from anabranch.train.tables import Recipe

SHIPPED = Path(__file__).parents[1] / "recipes"  # in a checkout a link to recipes/, in a wheel its files
HELD_OUT = 0.2  # of pictures that come in one piece
_TESTED = ("val", "valid", "validation", "eval", "test", "testing")  # what people call the other piece
_LISTS = (".txt", ".csv", "_list.txt")
_KAGGLES = "LOC_val_solution.csv"  # three folders above ILSVRC/Data/CLS-LOC as it is unpacked
_IMAGENETS = {"val": (_KAGGLES, f"../../../{_KAGGLES}", TRUTH, f"data/{TRUTH}", f"ILSVRC2012_devkit_t12/data/{TRUTH}")}
_NOUNS = {str: "text", int: "whole number", float: "number"}
_PREFIX = "Input should be "
_OTHERWISE = {
    "string_pattern_mismatch": "of letters, digits, '.', '_' and '-', the first a letter or a digit",
    "too_short": "a list that is not empty",
}


def find_recipe(given: str) -> Path:
    """The file of a recipe, given by its path or, for one that anabranch brings along, by its name.

    What looks like a name is a file all the same where there is one. Raises RecipeError with the nearest names.
    """
    path = Path(given)
    if path.suffix == ".toml" or path.name != given or path.is_file():
        return path
    shipped = {recipe.stem: recipe for recipe in SHIPPED.glob("*.toml")}
    if given not in shipped:
        raise RecipeError(
            f"{shown(given)}: neither a file nor a recipe that anabranch brings along; the nearest of these are "
            f"{', '.join(nearest(given, shipped))}"
        )
    return shipped[given]


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
        table["data"] = _pointed(table.get("data"), pictures, _asked(overrides))
    if smoke:
        if not isinstance(table.get("smoke"), dict) or not table["smoke"]:
            raise RecipeError(f"{path}: has no [smoke] table; run it without --smoke, or add one")
        for key, value in table["smoke"].items():
            _put(table, key, value, where=f"{path}, [smoke]")
    _lay_over(table, overrides)
    recipe = recipe_from_json(table, where=str(path))
    if not smoke:
        _want_smoke(table, where=f"{path}, [smoke]")
    recipe.spec()
    recipe.input.preprocess()
    return recipe


def _pointed(data: Any, pictures: Path, asked: Collection[str]) -> dict[str, Any]:
    """The recipe's [data] with the pictures of this folder, or of this list file.

    A folder that holds a split for training is used as that, and another split of it to test on; so are two lists in
    it. Of a set that is in one piece a fifth is held out. Class folders name the classes, in place of the recipe. Where
    keys that are `asked` for say what to test on, the rest says what to learn from.
    """
    told = dict(data) if isinstance(data, Mapping) else {}
    train, test = (dict(told.pop(part, None) or {}) for part in ("train", "test"))
    held_out = told.pop("hold_out", 0) or HELD_OUT
    if not pictures.exists():
        raise DatasetError(f"{pictures}: no such folder or list; give where your pictures are")
    inside = _names(pictures) if pictures.is_dir() else set()
    learnt = train.get("split") or "train"
    names = [name for name in (test.get("split"), *_TESTED) if name]
    is_asked = any(key == "data.test" or key.startswith("data.test.") for key in asked)
    if pictures.is_dir() and are_packed(pictures, inside) and not _is_set(pictures / learnt):  # they say what is what
        words = {word for name in inside if name.endswith(".tar") for word in re.findall("[a-z]+", name.lower())}
        found = (IMAGES.fullmatch(name) for name in inside)
        words |= {"test" if each["split"] == "t10k" else each["split"] for each in found if each}
        if {"test_batch.bin", "test.bin"} & inside:  # CIFAR's
            words |= {"train", "test"}
        train["split"] = next((each for each in (learnt, "training") if each in words), train.get("split"))
        test["split"] = next((each for each in names if each in words), test.get("split"))
        if None in (train["split"], test["split"]) and not is_asked:
            raise DatasetError(
                f"{pictures}: its shards or IDX files do not say what is to be tested on; call them train-*.tar and "
                "val-*.tar, or train-images-idx3-ubyte and t10k-images-idx3-ubyte, or give others with "
                "--set data.test.path"
            )
        return {**told, "train": {**train, "path": str(pictures)}, "test": {**test, "path": str(pictures)}}
    if _is_set(pictures / learnt):
        if _has_class_folders(pictures / learnt):
            told.pop("class_names", None)
        source = {"path": str(pictures), "split": learnt}
        tested = next((name for name in names if _is_set(pictures / name)), None)
        if tested is not None and "data.test.path" not in asked:
            return {**told, "train": source, "test": {"path": str(pictures), "split": tested}}
        if is_asked:
            return {**told, "train": source, "test": {"path": str(pictures)}}
        for flat in filter(Path.is_dir, (pictures / name for name in names)):
            if (labels := _list_in(pictures, [flat.name]) or _list_in(flat, [flat.name])) is not None:
                return {**told, "train": source, "test": {"path": str(flat), "labels": labels}}
        _want_alone(pictures, learnt)
        return {**told, "train": source, "hold_out": held_out}
    lists = [_list_in(pictures, each) for each in ([learnt], names)]
    if all(lists):
        return {**told, "train": {"path": lists[0]}, "test": {"path": lists[1]}}
    if _has_class_folders(pictures):
        told.pop("class_names", None)
    rest = {"test": {"path": str(pictures)}} if is_asked else {"hold_out": held_out}
    return {**told, "train": {"path": str(pictures)}, **rest}


def _want_alone(pictures: Path, learnt: str) -> None:
    """Raises DatasetError where pictures to test on may lie beside those to learn from, under a name of their own."""
    others = (each for each in pictures.iterdir() if each.name != learnt and not is_hidden(each.name))
    beside = sorted(shown(each.name) for each in others if each.is_dir() or not each.exists())  # or a link to nowhere
    if beside:
        raise DatasetError(
            f"{pictures}: holds {learnt} and {', '.join(beside[:5])}{', ...' if len(beside) > 5 else ''}, but no class "
            "folders in a val or a test, nor a list of the pictures in it such as val_list.txt. Call so what is to be "
            f"tested on, or give {pictures / learnt} alone, of which a fifth is then held out"
        )


def _is_set(folder: Path) -> bool:
    """Whether there is a folder that is a set of its own, and not the pictures of a class that is called like one."""
    if not folder.is_dir():
        return False
    names = _names(folder)
    return not any(map(is_picture, names)) or any((folder / name).is_dir() for name in names)


def _has_class_folders(place: Path) -> bool:
    if not place.is_dir():
        return False
    names = _names(place)
    return not are_packed(place, names) and any((place / name).is_dir() for name in names)


def _list_in(folder: Path, names: Sequence[str]) -> str | None:
    """The first list of one of these names, such as val.csv or PaddleClas' val_list.txt, or ImageNet's own."""
    files = [folder / f"{name}{suffix}" for name in names for suffix in _LISTS]
    files += [folder / place for name in names for place in _IMAGENETS.get(name, ())]
    return next((str(file) for file in files if file.is_file()), None)


def _names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir() if not is_hidden(entry.name)}


def recipe_from_json(table: Mapping[str, Any], *, where: str) -> Recipe:
    try:
        return Recipe.model_validate(_as_tuples(table), strict=True)
    except ValidationError as error:
        raise RecipeError(f"{where}: {_explain(error.errors(), table)}") from None


def _want_smoke(table: Mapping[str, Any], *, where: str) -> None:
    """Raise RecipeError where [smoke], laid over a recipe that fits, has an unknown key or a value of another kind.

    Whether its values fit those of other keys is seen in a smoke run: here overrides may have changed the others.
    """
    smoked = deepcopy(dict(table))
    for key, value in table.get("smoke", {}).items():
        with suppress(RecipeError):  # of a key of [arch], where an override names a net
            _put(smoked, key, value, where=where)
    try:
        Recipe.model_validate(_as_tuples(smoked), strict=True)
    except ValidationError as error:
        if findings := [each for each in error.errors() if each["type"] != "value_error"]:
            raise RecipeError(f"{where}: {_explain(findings, smoked)}") from None


def _lay_over(table: dict[str, Any], overrides: Sequence[str]) -> None:
    """Set what `--set` says. A file that it names in place of the recipe's folder leaves the recipe's split behind."""
    asked = _asked(overrides)
    for key, override in zip(asked, overrides, strict=True):
        _, equals, text = override.partition("=")
        if not equals:
            raise RecipeError(f"--set {override}: wanted key=value, for instance --set optimise.epochs=3")
        if key.partition(".")[0] == "smoke":
            raise RecipeError(
                f"--set {override}: [smoke] is the recipe's own; say --smoke, and --set with the key itself, which "
                "goes over it"
            )
        value = _value(text.strip())
        held = _put(table, key, value, where=f"--set {override}")
        names_file = key in ("data.train.path", "data.test.path") and Path(str(value)).is_file()
        if names_file and key.replace("path", "split") not in asked:
            held.pop("split", None)


def _asked(overrides: Sequence[str]) -> list[str]:
    """The keys that `--set` sets."""
    return [override.partition("=")[0].strip() for override in overrides]


def _value(text: str) -> Any:
    """A TOML value, or the text itself where it is not one."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _put(table: dict[str, Any], dotted: str, value: Any, *, where: str) -> dict[str, Any]:
    """Set `a.b.c`, and give the innermost table. A key that no recipe has is refused when the whole is read."""
    *parents, last = dotted.split(".")
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise RecipeError(f"{where}: {parent!r} in {dotted!r} is a value, not a table")
    table[last] = value
    return table


def _as_tuples(value: Any) -> Any:
    """TOML's arrays as tuples, which strict validation wants; architectures keep their lists."""
    if isinstance(value, Mapping):
        return {key: item if key in ("arch", "smoke") else _as_tuples(item) for key, item in value.items()}
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def _explain(findings: Sequence[ErrorDetails], table: Mapping[str, Any]) -> str:
    """Pydantic's findings as sentences, the first of each key; an unknown key has the nearest known ones beside it."""
    sentences: dict[str, str] = {}
    for finding in findings:
        kind, place = finding["type"], finding["loc"]
        names, held = _known(place)
        key = ".".join(names)
        if kind == "extra_forbidden":
            key = ".".join(map(str, place))
            leaves = _leaves(Recipe)
            near = ", ".join([each for leaf in nearest(str(place[-1]), leaves) for each in leaves[leaf]][:3])
            said = f"there is no key {key!r}; the nearest are {near}"
        elif kind == "missing" and len(names) == len(place):
            said = f"the key {key!r} is missing"
        elif kind == "value_error":
            said = str(finding["ctx"]["error"])
        else:
            is_other_type = kind.endswith("_type") or kind in ("missing", "too_long")  # these of lists
            wanted = _words(held) if is_other_type else _OTHERWISE.get(kind, finding["msg"].removeprefix(_PREFIX))
            said = f"{key} = {reduce(getitem, names, table)!r} does not fit: it must be {wanted}"
        sentences.setdefault(key, said)
    return "; ".join(sentences.values())


def _known(place: tuple[int | str, ...]) -> tuple[list[str], Any]:
    """The keys on the way to a place, without what lies within a list or an architecture, and what the last holds."""
    names: list[str] = []
    held: Any = Recipe
    for part in place:
        fields = _keys(held)
        if part not in fields:
            break
        names.append(str(part))
        held = fields[str(part)].annotation
    return names, held


def _keys(held: Any) -> Mapping[str, FieldInfo]:
    """Of what is a table or may be one; of anything else none."""
    for each in (held, *get_args(held)):
        if isinstance(each, type) and issubclass(each, BaseModel):
            return each.model_fields
    return {}


def _leaves(held: Any, before: str = "") -> dict[str, list[str]]:
    """The last part of each key, and the whole keys that end so."""
    found: dict[str, list[str]] = {}
    for name, field in _keys(held).items():
        found.setdefault(name, []).append(f"{before}{name}")
        for leaf, keys in _leaves(field.annotation, f"{before}{name}.").items():
            found.setdefault(leaf, []).extend(keys)
    return found


def _words(held: Any, a: str = "a ", s: str = "") -> str:
    """What a key holds, as a recipe's author calls it."""
    origin, items = get_origin(held) or held, get_args(held)
    if origin is Annotated:
        return _words(items[0], a, s)
    if origin in (Union, UnionType):
        return " or ".join(_words(each) for each in items if each is not NoneType)
    if origin is Literal:
        return " or ".join(map(json.dumps, items))
    if origin is tuple:
        count = "" if items[-1] is Ellipsis else f"{len(items)} "
        return f"{a}list{s} of {count}{_words(items[0], '', 's')}"
    return "true or false" if origin is bool else f"{a}{_NOUNS.get(origin, 'table')}{s}"
