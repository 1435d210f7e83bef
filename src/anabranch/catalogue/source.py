"""The TOML files read strictly, their names checked against each other, and the index written from them."""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from anabranch.arch import ARCHITECTURES
from anabranch.catalogue.facts import HUB, Document, Weights
from anabranch.catalogue.index import INDEX, Index
from anabranch.errors import CatalogueError, nearest

FOLDER = INDEX.parent

# What stands at the top of a file holds for each of its weights that says nothing else
SHARED = ("publisher", "dialect", "licence", "input")

_HUB_ID = re.compile(rf"{HUB}[\w.-]+/[\w.-]+")
_HTTPS = re.compile(r"https://[\w.-]+/[\w./+-]*[\w+-]")
_SHA256 = re.compile(r"[0-9a-f]{8,64}")
_SHA256_IN_NAME = re.compile(r"-([0-9a-f]{8,})\.\w+$")  # as torch.hub and mmpretrain name their files


def read(folder: Path = FOLDER) -> Index:
    """Everything the folder's TOML files say. Raises CatalogueError that names the file and what is wrong in it."""
    documents: dict[str, Document] = _checked(
        folder / "documents.toml", dict[str, Document], _parsed(folder / "documents.toml")
    )
    weights: list[Weights] = []
    architectures: dict[str, str] = {}
    for path in sorted(folder.glob("*.toml")):
        if path.name == "documents.toml":
            continue
        table = _parsed(path)
        shared = {key: table.pop(key) for key in SHARED if key in table}
        for alias, canonical in _checked(path, dict[str, str], table.pop("architectures", {})).items():
            _want(path, alias not in architectures, f"{alias!r} already stands for {architectures.get(alias)!r}")
            architectures[alias] = canonical
        rows = _checked(path, list[dict[str, Any]], table.pop("weights", []))
        found = _checked(path, list[Weights], [{**shared, **row} for row in rows])
        _want(path, not table, f"there are no tables called {', '.join(table)}; there are architectures and weights")
        for entry in found:
            _check_entry(path, entry, documents)
        weights += found
    order = list(ARCHITECTURES)
    weights.sort(key=lambda entry: order.index(entry.architecture))
    index = Index(documents=documents, weights=tuple(weights), architectures=architectures)
    _check_names(folder, index)
    return index


def write(index: Index, path: Path = INDEX) -> None:
    """One line per document, alias and weights, so that a difference shows what changed."""
    path.write_text(text(index), encoding="utf-8")


def text(index: Index) -> str:
    def lines(rows: Iterator[str]) -> str:
        return ",\n".join(rows)

    def compact(fact: Document | Weights) -> str:
        return json.dumps(dataclasses.asdict(fact, dict_factory=_present), ensure_ascii=False)

    documents = lines(f"{json.dumps(key)}: {compact(document)}" for key, document in index.documents.items())
    architectures = lines(f"{json.dumps(alias)}: {json.dumps(name)}" for alias, name in index.architectures.items())
    weights = lines(compact(entry) for entry in index.weights)
    parts = f'"documents": {{\n{documents}\n}},\n"architectures": {{\n{architectures}\n}},\n"weights": [\n{weights}\n]'
    return f"{{{parts}}}\n"


def _present(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key: value for key, value in pairs if value is not None and value != ()}


def _parsed(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise CatalogueError(f"{path} is not readable TOML: {error}") from None


def _checked(path: Path, kind: Any, value: Any) -> Any:
    try:
        return TypeAdapter(kind).validate_json(json.dumps(value), strict=True)  # JSON: a list may become a tuple
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "its first line"
        raise CatalogueError(f"{path}: {where}: {first['msg']}, met {str(first['input'])[:80]!r}") from None


def _want(path: Path, holds: bool, otherwise: str) -> None:
    if not holds:
        raise CatalogueError(f"{path}: {otherwise}")


def _check_entry(path: Path, entry: Weights, documents: dict[str, Document]) -> None:
    close = ", ".join(nearest(entry.architecture, ARCHITECTURES))
    _want(
        path,
        entry.architecture in ARCHITECTURES and entry.tag != "",
        f"weights {entry.name!r} must be called architecture.tag; the nearest architectures are {close}",
    )
    for claim in entry.claims:
        _want(path, claim.document in documents, f"{entry.name}: documents.toml has no {claim.document!r}")
    _check_file(path, entry)


def _check_file(path: Path, entry: Weights) -> None:
    """Addresses that can be fetched safely, and a hash that a file there can have."""
    for url in entry.urls:
        fits = _HUB_ID.fullmatch(url) or _HTTPS.fullmatch(url)
        _want(path, bool(fits), f"{entry.name}: {url!r} is neither an https address of a file nor {HUB}owner/name")
    if entry.sha256 is None:
        return
    fits = _SHA256.fullmatch(entry.sha256)
    _want(path, bool(fits), f"{entry.name}: sha256 = {entry.sha256!r} must be 8 to 64 lower-case hexadecimal digits")
    files = [url for url in entry.urls if not url.startswith(HUB)]
    _want(path, bool(files), f"{entry.name}: sha256 is of a file at an https address, and there is none")
    for found in filter(None, map(_SHA256_IN_NAME.search, files)):
        same = found[1].startswith(entry.sha256) or entry.sha256.startswith(found[1])
        _want(path, same, f"{entry.name}: sha256 = {entry.sha256!r}, but the file's own name says {found[1]!r}")


def _check_names(folder: Path, index: Index) -> None:
    """Every name means one thing, every homonym is a name that means another, and claims are printed under these."""
    meaning: dict[str, str] = {name: name for name in ARCHITECTURES}
    pairs = [*index.architectures.items(), *((entry.name, entry.name) for entry in index.weights)]
    pairs += [(alias, entry.name) for entry in index.weights for alias in entry.aliases]
    for name, meant in pairs:
        _want(folder, name not in meaning, f"{name!r} means both {meaning.get(name)!r} and {meant!r}")
        meaning[name] = meant
    for alias, canonical in index.architectures.items():
        _want(folder, canonical in ARCHITECTURES, f"{alias!r} stands for {canonical!r}, which is no architecture")
    for entry in index.weights:
        for homonym in entry.homonyms:
            _want(
                folder,
                meaning.get(homonym) not in (None, entry.name, entry.architecture),
                f"{homonym!r} is called a homonym of {entry.name}, but means nothing else",
            )
        for claim in entry.claims:
            _want(
                folder,
                claim.printed in entry.homonyms or meaning.get(claim.printed) in (entry.name, entry.architecture),
                f"{claim.printed!r}, printed by {claim.document}, is neither an alias nor a homonym of {entry.name}",
            )
