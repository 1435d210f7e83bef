from __future__ import annotations

import pytest

from anabranch.arch import ARCHITECTURES, Quirk, arch
from anabranch.catalogue.find import find
from anabranch.catalogue.words import QUIRKS, described, described_file, file_name


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


def told(name: str) -> list[tuple[str, str]]:
    found = find(name).weights
    assert found
    return described_file(found)


def test_addresses_are_told_in_the_order_in_which_they_are_tried() -> None:
    address, other, *_ = told("resnext50_32x4d.a1h_in1k")
    assert address[0] == "address"
    assert address[1].endswith("/v0.1-rsb-weights/resnext50_32x4d_a1h-0146ab0a.pth")
    assert other == ("or", "hf:timm/resnext50_32x4d.a1h_in1k")


def test_a_licence_that_forbids_commercial_use_is_said_to() -> None:
    assert dict(told("resnext101_32x8d_wsl"))["licence"] == "CC-BY-NC-4.0, which forbids commercial use"
    assert dict(told("ResNeXt50_32x4d"))["licence"] == "Apache-2.0"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnext50_32x4d.a1h_in1k", "0146ab0a... (of the file that is not on the hub)"),
        ("resnext50-32x4d_8xb32_in1k", "56066e27..."),
        ("ResNeXt50_32x4d", "not published"),
    ],
)
def test_a_hash_is_told_as_far_as_it_is_published(name: str, words: str) -> None:
    assert dict(told(name))["sha256"] == words


def test_an_input_is_told_with_its_resampler_and_rounding() -> None:
    words = dict(told("ResNeXt50_32x4d"))["input"]
    assert words == "224 px: shorter side to 256 px (opencv-bilinear, rounded as by paddleclas), then the centre"
    assert dict(told("resnext50_32x4d.a1h_in1k"))["tested at"].startswith("288 px: shorter side to 288 px")
    assert "tested at" not in dict(told("ResNeXt50_32x4d"))


def test_a_file_is_called_as_at_its_first_address() -> None:
    found = find("ResNeXt101_32x16d_wsl").weights
    assert found
    assert file_name(found) == "ResNeXt101_32x16_wsl_pretrained.pdparams"
