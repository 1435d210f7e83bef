from __future__ import annotations

import json

import pytest

from anabranch.catalogue.facts import Claim, Weights
from anabranch.catalogue.find import find, matching
from anabranch.catalogue.index import index
from anabranch.catalogue.summary import ORDERS, misclaims, row, rows_of_weights, weights_as_json
from anabranch.errors import UnknownName


def named(name: str) -> Weights:
    found = find(name).weights
    assert found
    return found


def doubted(name: str, document: str) -> set[str]:
    """Figures that differ from the counted ones, of what a document claims of weights."""
    entry = named(name)
    return {figure for claim in entry.claims if claim.document == document for figure in misclaims(entry, claim)}


def claim(**figures: float) -> Claim:
    """Of resnet50: 25,557,032 parameters, 4,089,184,256 multiply-accumulates at 224 px."""
    return Claim(document="paper", printed="x", **{"input_px": 224, **figures})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("figures", "wrong"),
    [
        ({"params_m": 25.56}, set()),
        ({"params_m": 25.31}, set()),  # 0.97 % less
        ({"params_m": 25.29}, {"params_m"}),  # 1.04 % less
        ({"flops_g": 4.09}, set()),
        ({"flops_g": 8.2}, set()),  # an addition counted beside each multiplication
        ({"flops_g": 8.3}, {"flops_g"}),
        ({"flops_g": 6.0}, {"flops_g"}),
        ({"macs_g": 4.1}, set()),
        ({"macs_g": 8.18}, {"macs_g"}),  # twice is right for FLOPs alone
        ({"macs_g": 16.4, "flops_g": 16.4, "input_px": 448}, set()),  # counted at 224 px, so not judged
        ({"params_m": 20, "input_px": 448}, {"params_m"}),
        ({}, set()),
    ],
)
def test_a_figure_more_than_a_percent_off_is_a_misclaim(figures: dict[str, float], wrong: set[str]) -> None:
    assert set(misclaims(named("resnet50.tv_in1k"), claim(**figures))) == wrong


@pytest.mark.parametrize("name", ["Res2Net50_14w_8s", "Res2Net50_vd_26w_4s"])
def test_paddleclas_swapped_res2net_rows_are_found_out(name: str) -> None:
    assert doubted(name, "paddleclas-tables") == {"params_m", "flops_g"}


@pytest.mark.parametrize("width", [8, 16, 32, 48])
def test_paddleclas_table_of_wsl_nets_is_found_out_and_its_readme_is_not(width: int) -> None:
    name = f"ResNeXt101_32x{width}d_wsl"
    assert doubted(name, "paddleclas-tables") == {"params_m", "flops_g"}
    assert doubted(name, "paddleclas-readme") == set()


def test_torchvisions_own_figures_are_right() -> None:
    entries = [entry for entry in index().weights if entry.publisher == "torchvision"]
    assert entries
    assert not any(doubted(entry.name, "torchvision-0.29") for entry in entries)


def test_a_misclaim_says_what_was_claimed_and_what_was_counted() -> None:
    told = misclaims(named("resnet50.tv_in1k"), claim(params_m=20, flops_g=6, macs_g=5))
    assert told == {
        "params_m": "claimed 20.00 M, counted 25.56 M",
        "flops_g": "claimed 6.00 G FLOPs, counted 4.09 G MACs",
        "macs_g": "claimed 5.00 G MACs, counted 4.09 G",
    }


def test_a_name_of_an_architecture_lists_all_of_its_weights() -> None:
    names = [each.weights[0].name for each in rows_of_weights(matching("resnext152_32x4d"))]
    assert names == ["resnext152_32x4d.mm_in1k", "resnext152_32x4d.paddle_in1k"]


def test_a_name_of_weights_lists_these_alone() -> None:
    names = [each.weights[0].name for each in rows_of_weights(matching("resnet50_s*l"))]
    assert names == ["resnet50.fb_ssl_yfcc100m_ft_in1k", "resnet50.fb_swsl_ig1b_ft_in1k"]


def test_an_architecture_without_weights_is_told_so() -> None:
    with pytest.raises(UnknownName, match="no weights of seresnet200d are known; with --nets"):
        rows_of_weights(matching("seresnet200d"))


def test_weights_for_machines_say_where_the_file_lies_and_what_is_claimed_of_it() -> None:
    [each] = rows_of_weights(matching("SENet154_vd"))
    said = json.loads(json.dumps(weights_as_json(each)))
    assert said["weights"] == "seresnext152e_64x4d.paddle_in1k"
    assert said["urls"][0].endswith("/dygraph/SENet154_vd_pretrained.pdparams")
    assert (said["dialect"], said["licence"], said["sha256"]) == ("paddleclas", "Apache-2.0", None)
    assert (said["params"], round(said["macs"] / 1e9, 3)) == (121_737_048, 24.340)  # as PaddleClas' own code counts
    assert (said["input"]["resampler"], said["input"]["mean"]) == ("opencv-bilinear", [0.485, 0.456, 0.406])
    [table] = [each for each in said["claims"] if each["params_m"] == 114.29]
    assert table["misclaims"][0] == "claimed 114.29 M, counted 121.74 M"


def test_rows_are_ordered_by_the_best_published_top5() -> None:
    # Facebook prints 97.6 and PaddleClas 97.7 for the WSL net, FixRes 98.0
    assert ORDERS["top5"](row("resnext101_32x48d")) == 98.0
    assert ORDERS["top5"](row("seresnet200d")) == 0.0
