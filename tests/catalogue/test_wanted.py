from __future__ import annotations

from typing import Any

import pytest

from anabranch.catalogue.facts import Claim, Input, Weights
from anabranch.catalogue.index import Counted
from anabranch.catalogue.summary import Row
from anabranch.catalogue.wanted import Wanted, narrowed
from anabranch.errors import UnknownName, UsageError


def weights(name: str, **facts: Any) -> Weights:
    said = {"publisher": "timm", "dialect": "timm", "licence": "Apache-2.0", "input": Input(crop_px=224, resize_px=256)}
    return Weights(name=name, **{**said, **facts})


def claims(*top1: float) -> tuple[Claim, ...]:
    return tuple(Claim(document="paper", printed="x", input_px=224, top1=each) for each in top1)


FREE = weights("small.free", claims=claims(76.1, 77.2))
FORBIDDEN = weights("small.forbidden", licence="CC-BY-NC-4.0", publisher="Facebook", claims=claims(80))
UNKNOWN = weights("large.unknown", licence="LicenseRef-unknown", publisher="Res2Net")
ROWS = [
    Row("small", Counted(25_000_000, 4_000_000_000, 224, 1000), [FREE, FORBIDDEN]),
    Row("large", Counted(80_000_000, 16_000_000_000, 224, 1000), [UNKNOWN]),
    Row("bare", Counted(11_000_000, 2_000_000_000, 224, 1000), []),
]


def kept(**wanted: Any) -> dict[str, list[str]]:
    return {row.name: [entry.name for entry in row.weights] for row in narrowed(ROWS, Wanted(**wanted))}


def test_who_wants_nothing_gets_every_row() -> None:
    assert narrowed(ROWS, Wanted()) == ROWS


def test_a_licence_leaves_the_weights_under_it() -> None:
    assert kept(licence="Apache-2.0") == {"small": ["small.free"]}


def test_a_licence_may_be_a_wildcard_in_any_case() -> None:
    assert kept(licence="cc-by-nc*") == {"small": ["small.forbidden"]}


def test_commercial_use_wants_a_licence_that_is_known_and_allows_it() -> None:
    assert kept(commercial=True) == {"small": ["small.free"]}


def test_a_source_is_who_published_the_weights() -> None:
    assert kept(source="facebook") == {"small": ["small.forbidden"]}
    assert kept(source="[ft]*") == {"small": ["small.free", "small.forbidden"]}


@pytest.mark.parametrize("limit", [{"max_params": 25}, {"max_macs": 4}])
def test_a_limit_of_size_is_met_by_what_equals_it_with_or_without_weights(limit: dict[str, float]) -> None:
    assert kept(**limit) == {"small": ["small.free", "small.forbidden"], "bare": []}


def test_a_wanted_top1_is_reached_by_any_claim() -> None:
    assert kept(min_top1=77.2) == {"small": ["small.free", "small.forbidden"]}
    assert kept(min_top1=77.3) == {"small": ["small.forbidden"]}


def test_every_wish_must_be_met_by_the_same_weights() -> None:
    with pytest.raises(UsageError):
        narrowed(ROWS, Wanted(min_top1=79, commercial=True))


def test_where_nothing_is_left_each_wish_is_named_with_what_its_loss_would_leave() -> None:
    told = (
        "none of 3 passes --commercial --max-params 12.5; there would be 1 without --commercial, 1 without --max-params"
    )
    with pytest.raises(UsageError, match=told):
        narrowed(ROWS, Wanted(commercial=True, max_params=12.5))


def test_a_licence_that_nothing_has_is_answered_with_those_there_are() -> None:
    with pytest.raises(UnknownName, match="no weights have the licence 'MIT'; there are .*Apache-2.0"):
        narrowed(ROWS, Wanted(licence="MIT"))


def test_a_publisher_that_nobody_is_is_answered_with_the_nearest_first() -> None:
    with pytest.raises(UnknownName, match="no weights have the source 'torchvison'; there are torchvision, "):
        narrowed(ROWS, Wanted(source="torchvison"))
