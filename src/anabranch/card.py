"""The card of an artefact: what the files are, where they come from, what goes in, and how far the answers are off.

It is one JSON object, read as strictly as it is written: a key that is missing, left over or of another type is an
error that names it. The labels stand beside it in a text file of their own.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from anabranch.arch import ARCHITECTURES, Arch, arch_from_json, arch_to_json
from anabranch.errors import ArtefactError, Error, UsageError, nearest
from anabranch.images.preprocess import Preprocess

if TYPE_CHECKING:  # a card is read without numpy
    import numpy as np
    from numpy.typing import NDArray

CARD_VERSION = 1
FEATURES = "features"  # beside the precisions of a format: the graph that gives feature maps, in f32
ANY_SIZE = {"f32": "any-size", "int8": "any-size-int8"}  # and OpenVINO's that resize and crop by themselves

_PRECISIONS = ("f32", "int8")  # of graphs; an engine may compute one of f32 in another

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class File:
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Weights:
    name: str  # as in the catalogue, or whatever its maker calls it
    sha256: str  # of the tensors, not of a file: anabranch.export.write.weights_sha256


@dataclass(frozen=True, slots=True)
class Graph:
    """The files of one format at one precision. `stored`: f16 halves the files; what is computed does not change."""

    stored: str  # f32, f16, int8
    files: Mapping[str, File]  # relative path with forward slashes -> what must lie there
    float_sums: bool = False  # int8 but for the sums between blocks: anabranch.export.sums


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How far one predictor's logits are from another's on the same pictures."""

    max_abs: float
    mean_abs: float
    largest_logit: float  # of the one compared with: the yardstick of max_abs
    top1_flips: int  # pictures whose best class is another one
    num_pictures: int

    @property
    def relative(self) -> float:
        """max_abs over the largest logit."""
        return self.max_abs / self.largest_logit if self.largest_logit else math.inf if self.max_abs else 0.0


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How many of the pictures that the agreement was measured on were given their own class."""

    top1_right: int
    num_pictures: int

    @property
    def top1(self) -> float:
        """Percent."""
        return 100 * self.top1_right / self.num_pictures


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    architecture: str | None  # canonical name; None: a spec of its maker's own
    spec: Arch
    weights: Weights
    licence: str  # SPDX where there is one
    labels: tuple[str, ...]
    multi_label: bool = False  # a picture shows any number of them: each logit answers for itself
    preprocess: Preprocess
    graphs: Mapping[str, Mapping[str, Graph]]  # format -> precision, FEATURES or one of ANY_SIZE -> files
    # at export, engine -> the same -> against the net; of ANY_SIZE against the same graph on pictures resized outside
    agreement: Mapping[str, Mapping[str, Agreement]]
    accuracy: Mapping[str, Mapping[str, Accuracy]] = field(default_factory=dict)  # the same, and "net" itself in f32
    pictures: str  # what these were measured on
    versions: Mapping[str, str]  # of what made it
    created: str  # ISO 8601, UTC

    @property
    def num_classes(self) -> int:
        return len(self.labels)

    @property
    def size_px(self) -> int:
        """S of the pixels (N, S, S, 3) that go in."""
        return self.preprocess.crop_px

    def check_pixels(self, pixels: NDArray[np.uint8]) -> None:
        """Raises UsageError unless these are (N, S, S, 3) uint8 with N at least 1 and this card's S."""
        dtype = str(getattr(pixels, "dtype", ""))
        shape: tuple[int, ...] = getattr(pixels, "shape", ())
        if dtype == "uint8" and len(shape) == 4 and shape[0] > 0 and shape[1:] == (self.size_px, self.size_px, 3):
            return
        met = f"{dtype} {shape}" if dtype else f"a {type(pixels).__name__}"
        raise UsageError(
            f"{self.weights.name} takes pixels as uint8 (N, {self.size_px}, {self.size_px}, 3) with N at least 1; "
            f"it met {met}. Run each picture through card.preprocess and stack them"
        )


def labels_text(labels: tuple[str, ...]) -> bytes:
    """One label a line, UTF-8: what lies beside the card."""
    return "".join(f"{label}\n" for label in labels).encode()


def card_to_json(card: Card) -> dict[str, Any]:
    """All but the labels, of which the count and the hash of `labels_text` stand here."""
    return {
        "card_version": CARD_VERSION,
        "created": card.created,
        "architecture": {"name": card.architecture, "spec": arch_to_json(card.spec)},
        "weights": {"name": card.weights.name, "sha256": card.weights.sha256},
        "licence": card.licence,
        "labels": {"count": card.num_classes, "sha256": hashlib.sha256(labels_text(card.labels)).hexdigest()},
        "preprocess": card.preprocess.to_json(),
        "graphs": _each(card.graphs, _graph_to_json),
        "agreement": _each(card.agreement, asdict),
        "pictures": card.pictures,
        "versions": dict(card.versions),
        **({"accuracy": _each(card.accuracy, asdict)} if card.accuracy else {}),
        **({"multi_label": True} if card.multi_label else {}),
    }


def card_from_json(value: object, labels: tuple[str, ...], *, where: str) -> Card:
    """The card of such an object. `where` opens every message. Raises ArtefactError."""
    version = value.get("card_version") if isinstance(value, dict) else None
    if type(version) is int and version > CARD_VERSION:
        raise ArtefactError(
            f"{where} is of version {version}, made by a newer anabranch; this one reads version {CARD_VERSION}. "
            "Upgrade with: pip install -U anabranch"
        )
    keys = "card_version created architecture weights licence labels preprocess graphs agreement pictures versions"
    table = _object(value, where, keys.split(), optional=["accuracy", "multi_label"])
    if type(version) is not int or version != CARD_VERSION:
        raise ArtefactError(f"{where}: card_version is {version!r}; {CARD_VERSION} was expected")
    _check_labels(table["labels"], labels, f"{where}: labels")
    named = _object(table["architecture"], f"{where}: architecture", ["name", "spec"])
    weights = _object(table["weights"], f"{where}: weights", ["name", "sha256"])
    return Card(
        architecture=None if named["name"] is None else _text(named["name"], f"{where}: architecture.name"),
        spec=_spec(named, f"{where}: architecture"),
        weights=Weights(
            _text(weights["name"], f"{where}: weights.name"), _sha256(weights["sha256"], f"{where}: weights.sha256")
        ),
        licence=_text(table["licence"], f"{where}: licence"),
        labels=labels,
        multi_label=_typed(table.get("multi_label", False), bool, f"{where}: multi_label"),
        preprocess=_preprocess(table["preprocess"], f"{where}: preprocess"),
        graphs=_map(table["graphs"], f"{where}: graphs", _precisions),
        agreement=_map(table["agreement"], f"{where}: agreement", lambda v, w: _map(v, w, _agreement)),
        accuracy=_map(table.get("accuracy", {}), f"{where}: accuracy", lambda v, w: _map(v, w, _accuracy)),
        pictures=_text(table["pictures"], f"{where}: pictures"),
        versions=_map(table["versions"], f"{where}: versions", _text),
        created=_text(table["created"], f"{where}: created"),
    )


def _check_labels(value: object, labels: tuple[str, ...], where: str) -> None:
    table = _object(value, where, ["count", "sha256"])
    count = _count(table["count"], f"{where}.count")
    if count == 0:
        raise ArtefactError(f"{where}.count is 0; a model has at least one class")
    if len(labels) != count:
        raise ArtefactError(f"{where}.count is {count}, but the labels beside it are {len(labels)}")
    if hashlib.sha256(labels_text(labels)).hexdigest() != _sha256(table["sha256"], f"{where}.sha256"):
        raise ArtefactError(f"{where}.sha256 is not that of the labels beside it; copy or export the artefact again")


def _graph_to_json(graph: Graph) -> dict[str, Any]:
    files = {name: {"bytes": file.size_bytes, "sha256": file.sha256} for name, file in graph.files.items()}
    return {"stored": graph.stored, **({"float_sums": True} if graph.float_sums else {}), "files": files}


def _each(table: Mapping[str, Mapping[str, Value]], to_json: Callable[[Value], Any]) -> dict[str, dict[str, Any]]:
    return {name: {precision: to_json(value) for precision, value in row.items()} for name, row in table.items()}


def _precisions(value: object, where: str) -> dict[str, Graph]:
    graphs = _map(value, where, _graph)
    if unknown := [name for name in graphs if name not in (*_PRECISIONS, FEATURES, *ANY_SIZE.values())]:
        raise ArtefactError(f"{where} has an unknown key {unknown[0]!r}; {', '.join(_PRECISIONS)} are precisions")
    return graphs


def _graph(value: object, where: str) -> Graph:
    table = _object(value, where, ["stored", "files"], optional=["float_sums"])
    stored = _text(table["stored"], f"{where}.stored")
    if stored not in ("f32", "f16", "int8"):
        raise ArtefactError(f"{where}.stored is {stored!r}; f32, f16 or int8 was expected")
    files = _map(table["files"], f"{where}.files", _file)
    for name in files:
        if not name.isprintable():  # a null character or half a surrogate pair is no name on any disk
            raise ArtefactError(f"{where}.files: {name!r} is no name of a file; export the artefact again")
        path = PurePosixPath(name)
        if path.is_absolute() or "\\" in name or ":" in name or str(path) != name or {"..", "."} & {*path.parts, name}:
            raise ArtefactError(f"{where}.files: {name!r} leaves the folder; a plain path inside it was expected")
    if not files:
        raise ArtefactError(f"{where}.files is empty; at least one file was expected")
    return Graph(stored, files, _typed(table.get("float_sums", False), bool, f"{where}.float_sums"))


def _file(value: object, where: str) -> File:
    table = _object(value, where, ["bytes", "sha256"])
    return File(_count(table["bytes"], f"{where}.bytes"), _sha256(table["sha256"], f"{where}.sha256"))


def _agreement(value: object, where: str) -> Agreement:
    table = _object(value, where, Agreement.__dataclass_fields__)
    return Agreement(
        max_abs=_measure(table["max_abs"], f"{where}.max_abs"),
        mean_abs=_measure(table["mean_abs"], f"{where}.mean_abs"),
        largest_logit=_measure(table["largest_logit"], f"{where}.largest_logit"),
        top1_flips=_count(table["top1_flips"], f"{where}.top1_flips"),
        num_pictures=_count(table["num_pictures"], f"{where}.num_pictures"),
    )


def _accuracy(value: object, where: str) -> Accuracy:
    table = _object(value, where, Accuracy.__dataclass_fields__)
    return Accuracy(**{name: _count(count, f"{where}.{name}") for name, count in table.items()})


def _spec(named: dict[str, Any], where: str) -> Arch:
    table = _object(named["spec"], f"{where}.spec", Arch.__dataclass_fields__)
    try:
        spec = arch_from_json(table)
    except Error as error:
        raise ArtefactError(f"{where}.spec: {error}") from None
    if ARCHITECTURES.get(named["name"], spec) != spec:
        raise ArtefactError(f"{where}: the name is {named['name']!r}, but the spec is not that architecture's")
    return spec


def _preprocess(value: object, where: str) -> Preprocess:
    said = _typed(value, dict, where)
    try:
        return Preprocess.from_json(said)
    except Error as error:
        raise ArtefactError(f"{where}: {error}") from None


def _object(value: object, where: str, keys: Any, *, optional: Sequence[str] = ()) -> dict[str, Any]:
    """`value`, which must be an object of exactly these keys, and any of the optional ones."""
    table: dict[str, Any] = _typed(value, dict, where)
    if missing := [key for key in keys if key not in table]:
        raise ArtefactError(f"{where} lacks {', '.join(map(repr, missing))}")
    if unknown := [key for key in table if key not in (*keys, *optional)]:
        raise ArtefactError(
            f"{where} has an unknown key {unknown[0]!r}; the nearest is {nearest(unknown[0], keys)[0]!r}"
        )
    return table


def _map(value: object, where: str, read: Callable[[object, str], Value]) -> dict[str, Value]:
    return {key: read(item, f"{where}.{key}") for key, item in _typed(value, dict, where).items()}


def _typed(value: object, kind: type[Value], where: str) -> Value:
    if not isinstance(value, kind):
        wanted = {
            dict: "an object",
            str: "a text",
            bool: "true or false",
            int: "a whole number",
            float: "a number",
        }[kind]
        raise ArtefactError(f"{where} is {str(value)[:80]!r}; {wanted} was expected")
    return value


def _text(value: object, where: str) -> str:
    return _typed(value, str, where)


def _sha256(value: object, where: str) -> str:
    text = _typed(value, str, where)
    if len(text) != 64 or set(text) - set("0123456789abcdef"):
        raise ArtefactError(f"{where} is {text[:80]!r}; 64 hexadecimal digits were expected")
    return text


def _count(value: object, where: str) -> int:
    number = _typed(value, int, where)
    if isinstance(value, bool) or number < 0:
        raise ArtefactError(f"{where} is {value!r}; a whole number of at least 0 was expected")
    return number


def _measure(value: object, where: str) -> float:
    try:
        number = _typed(float(value) if type(value) is int else value, float, where)
    except OverflowError:  # a whole number of hundreds of digits
        number = math.inf
    if not (math.isfinite(number) and number >= 0):
        raise ArtefactError(f"{where} is {number}; a finite number of at least 0 was expected")
    return number
