from __future__ import annotations

from pathlib import Path

import pytest

from anabranch.errors import UsageError
from anabranch.report.zoo import filled, zoo_table

DOCUMENT = Path(__file__).parents[2] / "docs" / "zoo.md"


def test_the_zoo_document_is_fresh() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text == filled(text, "zoo", zoo_table()), "stale: run make docs"


def test_a_line_holds_counted_and_published_figures() -> None:
    # Facebook and FixRes print 829 M parameters and 86.4 %
    assert "| `resnext101_32x48d` | 828,411,176 |" in zoo_table(["resnext101_32x48d"])
    assert "| 86.40 |" in zoo_table(["resnext101_32x48d"])


def test_only_what_stands_between_the_marks_is_replaced() -> None:
    text = "before\n<!-- zoo -->\nold\n<!-- /zoo -->\nafter\n"
    assert filled(text, "zoo", "new \\1\n") == "before\n<!-- zoo -->\nnew \\1\n<!-- /zoo -->\nafter\n"


def test_a_document_without_its_marks_is_refused() -> None:
    with pytest.raises(UsageError, match="wants one pair of lines <!-- zoo -->"):
        filled("nothing here", "zoo", "table")
