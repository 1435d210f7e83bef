from __future__ import annotations

import re
from typing import Any

import pytest

from anabranch.arch import ARCHITECTURES, Arch, Quirk, arch, arch_from_json, arch_to_json, name_of
from anabranch.errors import ArchError, UnknownName

GRAMMAR = re.compile(
    r"(?P<legacy>legacy_)?(?P<se>se)?(?P<kind>resnet|resnext|res2net|res2next|net)(?P<depth>\d+)(?P<stem>[cdset]?)"
    r"(?:_(?P<C>\d+)x(?P<D>\d+)d)?(?:_(?P<w>\d+)w_(?P<s>\d+)s(?:_(?P<c>\d+)c)?)?(?P<paddle>_paddle)?"
)
STEMS = {"": (64,), "c": (32, 32, 64), "d": (32, 32, 64), "t": (24, 32, 64), "s": (64, 64, 128), "e": (64, 64, 128)}
# He et al. 2015, table 1; 26, 200 and 269: timm; 29: Xie et al. 2017, section 5.1
BLOCKS = {
    18: (2, 2, 2, 2),
    26: (2, 2, 2, 2),
    29: (3, 3, 3),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    154: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
    269: (3, 30, 48, 8),
}


def said_by(name: str) -> Arch:
    """The spec that a canonical name spells out."""
    match = GRAMMAR.fullmatch(name)
    assert match, f"{name} does not follow the grammar of names"
    said = match.groupdict()
    depth, basic, res2, senet = int(said["depth"]), said["depth"] in ("18", "34"), "2" in said["kind"], False
    groups, group_width = int(said["C"] or said["c"] or 1), int(said["D"] or said["w"] or 64)
    if said["kind"] == "net":
        assert said["se"], name
        senet, groups, group_width = True, 64, 4
    return Arch(
        depths=(3, 12, 48, 3) if depth == 200 and said["paddle"] else BLOCKS[depth],  # PaddleClas' own 200
        block="basic" if basic else "res2" if res2 else "bottleneck",
        groups=groups,
        group_width=group_width,
        splits=int(said["s"] or 1),
        stem=STEMS["s" if senet else said["stem"]],
        stem_stride=1 if depth == 29 else 4,
        shortcut="conv3x3" if senet else "pool" if said["stem"] in ("d", "t", "e") else "conv",
        squeeze=16 if said["se"] else 0,
        quirks=frozenset(quirks_of(said, basic=basic, res2=res2, senet=senet)),
    )


def quirks_of(said: dict[str, str | None], *, basic: bool, res2: bool, senet: bool) -> set[Quirk]:
    quirks = {Quirk.HALVED_REDUCE} if senet else set()
    if said["legacy"]:
        quirks |= {Quirk.UNPADDED_STEM_POOL}
        quirks |= {Quirk.RELU_BEFORE_SQUEEZE} if basic else set()
        quirks |= {Quirk.STRIDE_IN_REDUCE} if said["kind"] == "resnet" and not basic else set()
    elif said["paddle"]:
        quirks |= {Quirk.PROJECTED_FIRST_SHORTCUT} if basic else set()
        quirks |= {Quirk.SPLITS_RESET_ON_STRIDE, Quirk.MEAN_SKIPS_PADDING} if res2 else set()
    elif said["se"] and basic:
        quirks |= {Quirk.SQUEEZE_IN_EIGHTS}
    return quirks


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_row_is_what_its_name_says(name: str) -> None:
    assert ARCHITECTURES[name] == said_by(name)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_number_in_a_name_counts_its_layers(name: str) -> None:
    spec, depth = ARCHITECTURES[name], int(re.findall(r"\d+", name.replace("res2ne", "resne"))[0])
    layers = sum(spec.depths) * (2 if spec.block == "basic" else 3)
    stem_and_head = 4 if depth == 154 else 2  # SENet-154 alone counts all three convolutions of its stem
    assert layers + stem_and_head == depth


def test_no_two_names_mean_the_same_net() -> None:
    assert len(set(ARCHITECTURES.values())) == len(ARCHITECTURES)


def test_a_row_is_known_by_its_name_and_a_spec_of_ones_own_has_none() -> None:
    assert name_of(arch("resnext50_32x4d")) == "resnext50_32x4d"
    assert name_of(Arch(depths=(1,))) is None


def test_an_unknown_name_is_answered_with_the_nearest_three() -> None:
    with pytest.raises(UnknownName, match="'resnext50_32x5d'; the nearest are resnext50_32x4d, .*, .*anabranch list"):
        arch("resnext50_32x5d")


HALVED = frozenset({Quirk.HALVED_REDUCE})


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"depths": ()}, "depths"),
        ({"depths": (3, 0, 3, 3)}, "depths"),
        ({"depths": (1,) * 6}, "depths"),
        ({"depths": (100_000_000, 1)}, "depths = .* numbers from 1 to 1000"),
        ({"width": 1 << 62}, "width = .* from 1 to 4096"),
        ({"width": 10**400}, "width = 10{79} does not fit"),
        ({"group_width": 5000}, "group_width = 5000"),
        ({"groups": 4096, "group_width": 4096}, "at most 16777216 channels inside"),
        ({"stem": (5000,)}, "stem"),
        ({"block": "res2", "splits": 65}, "splits = 65 .* from 2 to 64"),
        ({"block": "inverted"}, "block = inverted"),
        ({"shortcut": "none"}, "shortcut = none"),
        ({"width": 0}, "width = 0"),
        ({"groups": 0}, "groups = 0"),
        ({"group_width": 0}, "group_width = 0"),
        ({"width": 4, "group_width": 8}, "group_width = 8"),
        ({"stem": (32, 64)}, r"stem = \(32, 64\)"),
        ({"stem": (0,)}, "stem"),
        ({"stem_stride": 2}, "stem_stride = 2"),
        ({"squeeze": -1}, "squeeze = -1"),
        ({"squeeze": 512}, "squeeze = 512 .* 256 channels"),
        ({"splits": 4}, "splits = 4"),
        ({"block": "res2"}, "splits = 1"),
        ({"block": "basic", "groups": 32}, "groups, group_width = 32, 64"),
        ({"groups": 32, "group_width": 3, "quirks": HALVED}, "groups, group_width = 32, 3 .* halved, parts into"),
        ({"width": 1, "group_width": 64, "quirks": HALVED}, "groups, group_width = 1, 64 .* halved"),
    ],
)
def test_numbers_that_do_not_fit_are_named_with_their_value(wrong: dict[str, object], told: str) -> None:
    with pytest.raises(ArchError, match=told):
        Arch(**{"depths": (3, 4, 6, 3), **wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_spec_returns_from_plain_data_unchanged(name: str) -> None:
    assert arch_from_json(arch_to_json(arch(name))) == arch(name)


@pytest.mark.parametrize("said", ["resnet18", ["depths"], None, 3])
def test_what_is_no_table_is_no_spec(said: Any) -> None:
    with pytest.raises(ArchError, match="an architecture is a table of fields"):
        arch_from_json(said)


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"depths": [3, 4], "widht": 32}, "'widht'; the nearest are width"),
        ({"depths": [3, 4], "quirks": ["halved"]}, "'halved'"),
        ({"depths": [3, 4], "width": "wide"}, "width = 'wide'"),
        ({"depths": [3, 4], "groups": True}, "groups = True"),
        ({"depths": ["3", "4"]}, "depths"),
        ({"depths": [3, 4], "stem": [3.5]}, "stem"),
        ({"depths": [3, 4], "quirks": [1]}, "quirk"),
        ({"width": 32}, "'depths'"),
    ],
)
def test_plain_data_that_is_no_spec_is_refused_by_its_field(table: dict[str, object], told: str) -> None:
    with pytest.raises(ArchError, match=told):
        arch_from_json(table)
