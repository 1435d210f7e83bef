"""`make parity`: the publishers' own code, run in its own environment with random weights, is the oracle."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from anabranch.checkpoints.convert import writer
from anabranch.checkpoints.identify import identify
from anabranch.errors import WeightsMismatch
from anabranch.nets.dialects import DIALECTS
from anabranch.nets.spelling import to_theirs
from parity.meeting import Met
from parity.models import FAMILY, ROWS, SIZES_PX, TOLERANCE, Row, reason, size_name, switched_off
from parity.peer import SPEAKERS, Peer

pytestmark = pytest.mark.parity

SIZES = [size_name(size_px) for size_px in SIZES_PX]


def marked(rows: list[Row]) -> list[object]:
    return [pytest.param(row, id=str(row), marks=[pytest.mark.slow] if row.large else []) for row in rows]


every_net = pytest.mark.parametrize("met", marked(list(ROWS)), indirect=True)
every_named_net = pytest.mark.parametrize(
    "met", marked([row for row in ROWS if isinstance(row.ours, str)]), indirect=True
)
every_net_that_hides_something = pytest.mark.parametrize(
    "met", marked([row for row in ROWS if any(switched_off(row.arch))]), indirect=True
)


@pytest.mark.parametrize("name", SPEAKERS)
def test_every_net_of_the_family_that_a_publisher_offers_has_a_row_or_a_reason(
    name: str, peers: Callable[[str], Peer]
) -> None:
    offered = peers(name).introduction["names"]
    family = {each for each in offered if re.fullmatch(FAMILY[name], each)}
    known = {row.model for row in ROWS if row.peer == name}
    assert known <= family
    assert {each for each in family - known if reason(name, each) is None} == set()


@every_net
def test_our_net_gives_the_logits_of_the_publishers_code(met: Met) -> None:
    net = met.load(met.row.arch)
    met.measured["difference"] = {size: met.difference(net, size) for size in SIZES}
    assert all(difference <= TOLERANCE for difference in met.measured["difference"].values())


@every_net
def test_a_file_that_we_write_is_taken_back_strictly_and_gives_the_same_logits(met: Met) -> None:
    ours = met.load(met.row.arch).state_dict()
    file = met.folder / f"ours{'.pdparams' if met.row.dialect == 'paddleclas' else '.pth'}"
    write = writer(file, met.row.dialect)
    write(to_theirs(met.row.arch, ours, DIALECTS[met.row.dialect]), file)
    met.peer.ask("load", folder=str(met.folder), file=str(file))
    first, again = met.answers("first.npz"), met.answers("again.npz")
    met.measured["back_again"] = max(float(np.abs(first[size] - again[size]).max()) for size in SIZES)
    assert all(np.array_equal(first[size], again[size]) for size in SIZES)


@every_net_that_hides_something
def test_without_one_of_its_peculiarities_the_net_is_another(met: Met) -> None:
    met.measured["switched_off"] = {}
    for name, arch in switched_off(met.row.arch):
        try:
            net = met.load(arch)
        except WeightsMismatch:
            met.measured["switched_off"][name] = None  # the tensors are not this net's
            continue
        met.measured["switched_off"][name] = max(met.difference(net, size) for size in SIZES)
        assert met.measured["switched_off"][name] > TOLERANCE, name


@every_named_net
def test_the_publishers_file_is_recognised(met: Met) -> None:
    file = Path(met.peer.ask("save", folder=str(met.folder))["file"])
    first, *others = identify(file).candidates
    assert (first.architecture, first.dialect) == (met.row.ours, met.row.dialect)
    assert len(others) <= 1
