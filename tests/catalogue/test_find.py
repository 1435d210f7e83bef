from __future__ import annotations

import csv
from pathlib import Path

import pytest

from anabranch.arch import ARCHITECTURES
from anabranch.catalogue.facts import Claim, Weights
from anabranch.catalogue.find import find, matching, names_of
from anabranch.catalogue.index import index
from anabranch.errors import UnknownName
from parity.models import PADDLECLAS as BUILT_BY_PADDLECLAS

# As printed: fractions or percent, FLOPs or MACs, the row's own source where it names one
PUBLISHED = list(csv.DictReader(Path(__file__).with_name("published_metrics.csv").read_text().splitlines()))
PUBLISHERS = {"ppcls": "PaddleClas", "mmcls": "mmclassification", "timm": "timm", "torchvision": "torchvision"}
IDS = [f"{row['zoo']}-{row['model']}-{at}" for at, row in enumerate(PUBLISHED)]

# What PaddleClas' own code builds, as `make parity` shows, and its weights of other names than their nets
PADDLECLAS = {
    **BUILT_BY_PADDLECLAS,
    "ResNet34_vd_ssld": "resnet34d_paddle",
    "ResNet50_vd_ssld": "resnet50d",
    "ResNet101_vd_ssld": "resnet101d",
    "Res2Net50_vd_26w_4s_ssld": "res2net50d_26w_4s_paddle",
    "Res2Net101_vd_26w_4s_ssld": "res2net101d_26w_4s_paddle",
    "Res2Net200_vd_26w_4s_ssld": "res2net200d_26w_4s_paddle",
    "Fix_ResNeXt101_32x48d_wsl": "resnext101_32x48d",
}
OTHERS = {
    "tv_resnext50_32x4d": "resnext50_32x4d",
    "gluon_resnext50_32x4d": "resnext50_32x4d",
    "gluon_resnext101_32x4d": "resnext101_32x4d",
    "gluon_resnext101_64x4d": "resnext101_64x4d",
    "gluon_senet154": "senet154",
    "gluon_resnet50_v1s": "resnet50s",
    "SENet-154": "legacy_senet154",
    "se_resnet50": "legacy_seresnet50",
    "se_resnext101_32x4d": "legacy_seresnext101_32x4d",
    "ssl_resnext50_32x4d": "resnext50_32x4d",
    "swsl_resnext101_32x16d": "resnext101_32x16d",
    "resnext101_32x16d_swsl": "resnext101_32x16d",
    "ig_resnext101_32x16d": "resnext101_32x16d",
    "ig_resnext101_32x48d": "resnext101_32x48d",
    "resnext101_32x48d_wsl": "resnext101_32x48d",
    "fixresnext101_32x48d": "resnext101_32x48d",
    "res2net50d": "res2net50d_26w_4s",
    "res2net101d.in1k": "res2net101d_26w_4s",
    "res2next50": "res2next50_4w_4s_8c",
    "res2net50_v1b_26w_4s": "res2net50d_26w_4s",
    "res2net101_v1b_26w_4s": "res2net101d_26w_4s",
    "seresnext26tn_32x4d": "seresnext26t_32x4d",
    "resnext152-32x4d_8xb32_in1k": "resnext152_32x4d",
    "seresnext50-32x4d_8xb32_in1k": "seresnext50_32x4d",
    "ResNeXt101_64X4D_Weights.IMAGENET1K_V1": "resnext101_64x4d",
}


def percent(printed: str) -> float | None:
    return None if not printed else float(printed) * (100 if float(printed) <= 1 else 1)


def printed_by(row: dict[str, str]) -> list[tuple[Weights, Claim]]:
    """The claims made under this row's name in this row's document."""
    return [
        (entry, claim)
        for entry in index().weights
        for claim in entry.claims
        if claim.printed == row["model"]
        and index().documents[claim.document].publisher == PUBLISHERS[row["zoo"]]
        and (index().documents[claim.document].url or "") == row["source_url"]
    ]


@pytest.mark.parametrize("row", PUBLISHED, ids=IDS)
def test_a_published_row_is_claimed_exactly_as_printed(row: dict[str, str]) -> None:
    [(_, claim)] = printed_by(row)
    expected = {
        "top1": percent(row["top1"]),
        "top5": percent(row["top5"]),
        "reference_top1": percent(row["reference_top1"]),
        "reference_top5": percent(row["reference_top5"]),
        "flops_g": float(row["flops"]) if row["flops"] else None,
        "macs_g": float(row["macs"]) if row["macs"] else None,
        "params_m": float(row["params_m"]) if row["params_m"] else None,
        "input_px": int(row["input_size"]),
    }
    for field, figure in expected.items():
        assert getattr(claim, field) == (figure if figure is None else pytest.approx(figure, rel=1e-12)), field


@pytest.mark.parametrize("row", PUBLISHED, ids=IDS)
def test_a_published_name_resolves_to_its_architecture(row: dict[str, str]) -> None:
    """A canonical name is its own architecture even where PaddleClas prints it for another function."""
    [(entry, _)] = printed_by(row)
    found = find(row["model"])
    if row["model"] in ARCHITECTURES:
        assert found.architecture == row["model"]
    assert entry.architecture == found.architecture or entry in found.homonyms


@pytest.mark.parametrize(("name", "architecture"), [*PADDLECLAS.items(), *OTHERS.items()])
def test_a_zoos_name_means_the_net_that_the_zoo_builds(name: str, architecture: str) -> None:
    assert find(name).architecture == architecture


def test_all_of_paddleclas_published_names_are_tested_above() -> None:
    printed = {row["model"] for row in PUBLISHED if row["zoo"] == "ppcls"}
    assert {name for name in printed if name != name.lower()} == set(PADDLECLAS)
    assert printed - set(PADDLECLAS) <= {name.lower() for name in PADDLECLAS}


@pytest.mark.parametrize("name", ["res2net50_26w_4s", "res2net50_14w_8s"])
def test_the_authors_res2net_is_not_paddleclas_net_of_the_same_name(name: str) -> None:
    found = find(name)
    assert (found.architecture, found.weights) == (name, None)
    assert [entry.name for entry in found.homonyms] == [f"{name}_paddle.paddle_in1k"]


def test_senet154_is_timms_and_cadenes_is_told_apart() -> None:
    found = find("senet154")
    assert found.architecture == "senet154"
    assert [entry.architecture for entry in found.homonyms] == ["legacy_senet154"]


def test_weights_are_found_by_architecture_and_tag() -> None:
    found = find("res2net50d_26w_4s_paddle.ssld_in1k")
    assert found.weights
    assert found.weights.aliases == ("Res2Net50_vd_26w_4s_ssld", "res2net50_vd_26w_4s_ssld")


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES for name in names_of(name)])
def test_every_listed_name_can_be_looked_up(name: str) -> None:
    assert name in names_of(find(name).architecture)


@pytest.mark.parametrize("prefix", ["timm/", "hf_hub:timm/", "hf-hub:timm/"])
def test_timms_own_spelling_is_understood(prefix: str) -> None:
    assert find(f"{prefix}resnext50_32x4d.a1h_in1k").weights == find("resnext50_32x4d.a1h_in1k").weights
    with pytest.raises(UnknownName, match=f"called '{prefix}nothing'"):
        find(f"{prefix}nothing")


def test_looking_up_minds_the_case() -> None:
    with pytest.raises(UnknownName, match="'RESNEXT50_32X4D'; the nearest are .*resnext50_32x4d"):
        find("RESNEXT50_32X4D")


def test_an_unknown_name_is_answered_with_three_near_ones_of_any_zoo() -> None:
    with pytest.raises(
        UnknownName, match=r"'SE_ResNeXt50_vd_32x4'; the nearest are SE_ResNeXt50_vd_32x4d, \S+, \S+\. "
    ):
        find("SE_ResNeXt50_vd_32x4")


def test_a_wildcard_finds_architectures_by_what_any_zoo_calls_them() -> None:
    found = matching("SE_*_vd*")
    assert list(found) == ["seresnet18d_paddle", "seresnet34d_paddle", "seresnet50d", "seresnext50e_32x4d"]
    assert found["seresnext50e_32x4d"] == ["SE_ResNeXt50_vd_32x4d"]


def test_a_pattern_without_wildcards_is_part_of_a_name_in_any_case() -> None:
    assert list(matching("SEnet154")) == ["seresnext152e_64x4d", "senet154", "legacy_senet154"]


def test_no_pattern_is_the_whole_table() -> None:
    assert list(matching(None)) == list(ARCHITECTURES)


def test_a_pattern_that_fits_nothing_is_an_unknown_name() -> None:
    with pytest.raises(UnknownName, match="'vgg16'"):
        matching("vgg16")
