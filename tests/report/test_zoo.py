from __future__ import annotations

from pathlib import Path

import pytest

from anabranch.errors import UsageError
from anabranch.report.zoo import TABLES, filled, weights_table, zoo_table

DOCUMENT = Path(__file__).parents[2] / "docs" / "zoo.md"


@pytest.mark.parametrize("place", TABLES)
def test_the_zoo_document_is_fresh(place: str) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text == filled(text, place, TABLES[place]()), "stale: run make docs"


def test_a_line_holds_counted_and_published_figures() -> None:
    # Facebook and FixRes print 829 M parameters and 86.4 %
    assert "| `resnext101_32x48d` | 828,411,176 |" in zoo_table(["resnext101_32x48d"])
    assert "| 86.40 |" in zoo_table(["resnext101_32x48d"])


def test_a_line_of_weights_holds_licence_claim_with_its_source_and_hash() -> None:
    lines = weights_table(["resnext101_32x8d", "resnext50d_64x4d"]).splitlines()
    swsl = "| `resnext101_32x8d.fb_swsl_ig1b_ft_in1k` | Facebook | **CC-BY-NC-4.0** | 224 | 84.30 | 224 | "
    assert f"{swsl}Facebook semi-supervised-ImageNet1K-models | `b4712904` |" in lines
    paddle = (
        "| `resnext50d_64x4d.paddle_in1k` | PaddleClas | Apache-2.0 | 224 | 80.12 | 224 | PaddleClas README of 2.6 |"
    )
    assert f"{paddle}  |" in lines


def test_only_what_stands_between_the_marks_is_replaced() -> None:
    text = "before\n<!-- zoo -->\nold\n<!-- /zoo -->\nafter\n"
    assert filled(text, "zoo", "new \\1\n") == "before\n<!-- zoo -->\nnew \\1\n<!-- /zoo -->\nafter\n"


def test_a_document_without_its_marks_is_refused() -> None:
    with pytest.raises(UsageError, match="wants one pair of lines <!-- zoo -->"):
        filled("nothing here", "zoo", "table")
