from __future__ import annotations

import pytest

from anabranch.arch import Quirk
from anabranch.catalogue.find import find
from anabranch.catalogue.index import counts, index
from anabranch.errors import UnknownName
from anabranch.nets.dialects import DIALECTS
from anabranch.nets.spelling import shapes
from parity.models import ROWS, Row, reason


def params(row: Row) -> int:
    if isinstance(row.ours, str):
        return counts()[row.ours].params
    tensors = shapes(row.arch).items()
    return sum(shape.numel() for name, shape in tensors if not name.endswith(("_mean", "_var", "_tracked")))


def test_every_net_that_weights_were_published_of_is_compared_in_their_dialect() -> None:
    published = {(weights.architecture, weights.dialect) for weights in index().weights}
    assert published <= {(row.ours, row.dialect) for row in ROWS}


def test_a_publishers_name_means_what_the_catalogue_says_it_means() -> None:
    said = {}
    for row in ROWS:
        try:
            said[row] = find(row.model).architecture
        except UnknownName:  # no weights, or none that the catalogue lists under this name
            continue
    assert len(said) > 80
    assert {str(row): (row.ours, meant) for row, meant in said.items() if meant != row.ours} == {}


def test_no_net_stands_in_the_table_twice() -> None:
    assert len({(row.peer, row.model) for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_row_can_be_spelled_and_has_no_reason_to_be_left_out(row: Row) -> None:
    assert DIALECTS[row.dialect].refuses(row.arch) is None
    assert reason(row.peer, row.model) is None


def test_every_quirk_is_switched_off_in_a_net_that_every_run_compares() -> None:
    assert set().union(*(row.arch.quirks for row in ROWS if not row.large)) == set(Quirk)


def test_the_rows_called_large_are_those_above_100_million_parameters() -> None:
    assert {str(row) for row in ROWS if row.large} == {str(row) for row in ROWS if params(row) > 100e6}
