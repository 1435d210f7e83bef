from __future__ import annotations

import pytest

from anabranch.arch import ARCHITECTURES, Quirk, arch
from anabranch.catalogue.words import QUIRKS, described


def test_every_quirk_is_explained() -> None:
    assert set(QUIRKS) == set(Quirk)


def test_no_two_architectures_are_described_alike() -> None:
    assert len({tuple(described(spec)) for spec in ARCHITECTURES.values()}) == len(ARCHITECTURES)


@pytest.mark.parametrize(
    ("name", "field", "words"),
    [
        ("resnext50_32x4d", "stem", "7x7 to 64; stride 2; max-pool 3x3"),
        ("resnext50_32x4d", "block", "1x1, 3x3 of 128, 256, 512, 1024 channels in 32 groups, 1x1"),
        ("resnet50", "block", "1x1, 3x3 of 64, 128, 256, 512 channels, 1x1"),
        ("resnet18", "block", "basic: two 3x3 convolutions"),
        ("res2net50_14w_8s", "block", "1x1, 8 splits each of 14, 28, 56, 112 channels with 3x3 in a chain, 1x1"),
        ("resnext29_8x64d", "stem", "3x3 to 64; the picture whole"),
        ("seresnext50e_32x4d", "stem", "3x3 to 64, 3x3 to 64, 3x3 to 128; stride 2; max-pool 3x3"),
        ("seresnext50e_32x4d", "squeeze", "and excitation, by 16"),
        ("resnet18", "squeeze", "none"),
        ("resnet101", "stages", "of 3, 4, 23, 3 blocks, 256, 512, 1024, 2048 channels"),
    ],
)
def test_a_field_is_told_in_words(name: str, field: str, words: str) -> None:
    assert dict(described(arch(name)))[field] == words
