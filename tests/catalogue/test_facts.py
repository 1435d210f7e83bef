"""What the catalogue says of every file, against the zoos' own tables."""

from __future__ import annotations

import csv
import math
import re
from dataclasses import asdict
from pathlib import Path

import pytest

from anabranch.catalogue.facts import Input, Weights
from anabranch.catalogue.index import index
from anabranch.images.preprocess import Preprocess

# As the zoos' tables, configurations and code have it; an empty cell is what they do not say there. timm says crop_pct
# where the others say how far to resize.
PUBLISHED = list(csv.DictReader(Path(__file__).with_name("published_weights.csv").read_text().splitlines()))
IDS = [f"{row['zoo']}-{row['name']}-{at}" for at, row in enumerate(PUBLISHED)]


def listed(row: dict[str, str]) -> Weights:
    """The one entry that carries the row's name and, where the row names a file, has it at one of its addresses."""
    named = [
        entry
        for entry in index().weights
        if row["name"] in {entry.name, *entry.aliases, *(claim.printed for claim in entry.claims)}
        and (not row["file"] or any(url.endswith(f"/{row['file']}") for url in entry.urls))
    ]
    [entry] = named
    return entry


def resized(px: str, crop_pct: str) -> int:
    return math.floor(int(px) / float(crop_pct))


@pytest.mark.parametrize("row", PUBLISHED, ids=IDS)
def test_a_published_file_is_in_the_catalogue_with_its_licence(row: dict[str, str]) -> None:
    assert row["licence"] in ("", listed(row).licence)


@pytest.mark.parametrize("row", [row for row in PUBLISHED if row["px"]], ids=lambda row: f"{row['zoo']}-{row['name']}")
def test_a_net_gets_the_input_that_its_zoo_gives_it(row: dict[str, str]) -> None:
    found = listed(row).input
    wanted = int(row["resize_px"]) if row["resize_px"] else resized(row["px"], row["crop_pct"])
    assert (found.crop_px, found.resize_px, found.resampler) == (int(row["px"]), wanted, row["resampler"])
    assert found.rounding == ("paddleclas" if row["zoo"] == "PaddleClas" else "torchvision")


@pytest.mark.parametrize(
    "row", [row for row in PUBLISHED if row["zoo"] == "timm" and row["px"]], ids=lambda row: row["name"]
)
def test_timms_second_size_is_the_test_input(row: dict[str, str]) -> None:
    found = listed(row).test_input
    if not row["test_px"]:
        assert found is None
        return
    assert found
    wanted = (int(row["test_px"]), resized(row["test_px"], row["test_crop_pct"]), row["resampler"])
    assert (found.crop_px, found.resize_px, found.resampler) == wanted


@pytest.mark.parametrize("row", [row for row in PUBLISHED if row["zoo"] == "timm"], ids=lambda row: row["name"])
def test_timms_weights_but_the_legacy_ones_lie_on_the_hub_too(row: dict[str, str]) -> None:
    hub = [url for url in listed(row).urls if url.startswith("hf:")]
    assert hub == ([] if row["name"].startswith("legacy_") else [f"hf:timm/{row['name']}"])


@pytest.mark.parametrize(
    "row", [row for row in PUBLISHED if row["file"]], ids=lambda row: f"{row['zoo']}-{row['file']}"
)
def test_the_digits_in_a_files_name_are_its_hash(row: dict[str, str]) -> None:
    digits = re.search(r"-([0-9a-f]{8,})\.pth$", row["file"])
    sha256 = listed(row).sha256
    assert sha256 is None if digits is None else digits[1].startswith(str(sha256))


@pytest.mark.parametrize("entry", index().weights, ids=lambda entry: entry.name)
def test_every_set_of_weights_can_be_fetched_and_preprocessed_for(entry: Weights) -> None:
    assert entry.urls
    for each in filter(None, (entry.input, entry.test_input)):
        assert Preprocess.from_json(asdict(each)) == Preprocess(**asdict(each))


def test_an_input_says_all_that_preprocessing_asks_and_defaults_alike() -> None:
    assert asdict(Input(crop_px=224, resize_px=256)) == asdict(Preprocess(crop_px=224, resize_px=256))


@pytest.mark.parametrize(
    ("licence", "forbids"),
    [("Apache-2.0", False), ("BSD-3-Clause", False), ("CC-BY-NC-4.0", True), ("CC-BY-NC-SA-4.0", True)],
)
def test_a_licence_says_whether_it_forbids_commercial_use(licence, forbids: bool) -> None:
    entry = Weights(
        name="resnet50.x", publisher="X", dialect="timm", licence=licence, input=Input(crop_px=224, resize_px=256)
    )
    assert entry.non_commercial == forbids


def test_whoever_carries_facebooks_or_the_res2net_authors_weights_on_keeps_their_licence() -> None:
    carried = [entry for entry in index().weights if "wsl" in entry.name or entry.publisher in ("Facebook", "Res2Net")]
    carried += [entry for entry in index().weights if entry.publisher == "mmpretrain" and "res2net" in entry.name]
    assert len({entry.name for entry in carried}) == 23 + 9 + 5 + 3  # of Facebook, Res2Net, PaddleClas and mmpretrain
    assert all(entry.non_commercial for entry in carried)


def test_a_published_hash_is_not_asked_of_the_hubs_file() -> None:
    [entry] = [entry for entry in index().weights if entry.name == "resnext50_32x4d.a1h_in1k"]
    assert [entry.sha256_of(url) for url in entry.urls] == ["0146ab0a", None]
