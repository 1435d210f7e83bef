from __future__ import annotations

import json
from pathlib import Path

from anabranch.report.zoo import filled
from parity.models import ROWS, TOLERANCE, Row
from parity.page import latest, parity_table

DOCUMENT = Path(__file__).parents[2] / "docs" / "parity.md"
ROW = Row(peer="timm", model="resnet9", ours="resnet18", dialect="timm", large=False)
RESULT = {
    "peer": "timm",
    "peer_version": "1.2.3",
    "model": "resnet9",
    "difference": {"224x224": 3.14e-6, "201x239": 2e-7},
    "back_again": 0.0,
    "switched_off": {"halved_reduce": None, "pooled shortcut": 0.25},
}


def test_the_parity_document_is_fresh() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text == filled(text, "parity", parity_table(latest())), "stale: run make docs"


def test_every_recorded_net_agrees_with_its_publisher() -> None:
    recorded = latest()
    assert recorded.keys() == {(row.peer, row.model) for row in ROWS}
    for result in recorded.values():
        assert all(difference <= TOLERANCE for difference in result["difference"].values())
        assert result["back_again"] == 0
        assert all(met is None or met > TOLERANCE for met in result["switched_off"].values())


def test_a_line_of_the_table_says_what_was_measured() -> None:
    table = parity_table({("timm", "resnet9"): RESULT}, [ROW])
    assert table.splitlines()[2] == (
        "| timm 1.2.3 | `resnet9` | `resnet18` | timm | 3.1e-06 | 2.0e-07 | exact | "
        "halved_reduce: does not load, pooled shortcut: 2.5e-01 |"
    )


def test_a_net_that_was_not_compared_is_said_to_be_so() -> None:
    assert (
        parity_table({}, [ROW]).splitlines()[2] == "| timm | `resnet9` | `resnet18` | timm | not run | not run |  |  |"
    )


def test_of_two_results_the_last_one_counts(tmp_path: Path) -> None:
    file = tmp_path / "parity.jsonl"
    file.write_text("".join(json.dumps({**RESULT, "peer_version": version}) + "\n" for version in ("1.2.3", "1.2.4")))
    assert latest(file)["timm", "resnet9"]["peer_version"] == "1.2.4"
