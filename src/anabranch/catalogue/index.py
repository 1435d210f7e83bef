"""What the program reads of the catalogue: the generated index, and the generated counts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from anabranch.catalogue.facts import Claim, Document, Input, Weights

INDEX = Path(__file__).with_name("index.json")
COUNTS = Path(__file__).with_name("counts.csv")


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    documents: dict[str, Document]
    weights: tuple[Weights, ...]  # in the order of the architectures' table
    architectures: dict[str, str]  # what zoos call architectures -> canonical name


class Counted(NamedTuple):
    """Exact figures of one architecture, written by `python -m anabranch.nets.count`."""

    params: int
    macs: int
    input_px: int
    num_classes: int


@cache
def index() -> Index:
    facts = json.loads(INDEX.read_text(encoding="utf-8"))
    return Index(
        documents={key: Document(**document) for key, document in facts["documents"].items()},
        weights=tuple(map(_weights, facts["weights"])),
        architectures=facts["architectures"],
    )


@cache
def counts() -> dict[str, Counted]:
    """Canonical name -> what was counted, at the size and with the classes that the net was published for."""
    _, *lines = COUNTS.read_text(encoding="utf-8").splitlines()
    rows = (line.split(",") for line in lines)
    return {name: Counted(*map(int, figures)) for name, *figures in rows}


def _weights(facts: dict[str, Any]) -> Weights:
    parts: dict[str, Any] = {key: tuple(facts.get(key, ())) for key in ("urls", "aliases", "homonyms")}
    parts["claims"] = tuple(Claim(**claim) for claim in facts.get("claims", ()))
    for key in ("input", "test_input"):
        if key in facts:
            colours = {channel: tuple(facts[key][channel]) for channel in ("mean", "std")}
            parts[key] = Input(**{**facts[key], **colours})
    return Weights(**{**facts, **parts})
