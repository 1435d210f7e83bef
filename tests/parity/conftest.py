"""The publishers' processes, and one meeting of a publisher's net and ours after the other."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from anabranch.nets.dialects import DIALECTS
from anabranch.nets.spelling import to_ours
from anabranch.record import record
from parity.meeting import Met
from parity.models import SIZES_PX, Row, switched_off
from parity.peer import Peer


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", type=Path, metavar="FILE", help="append a line for each net to this .jsonl file")


@pytest.fixture(scope="session")
def peers() -> Iterator[Callable[[str], Peer]]:
    """A function that gives a publisher's process, started when it is first asked for."""
    started: dict[str, Peer] = {}

    def peer(name: str) -> Peer:
        if name not in started:
            started[name] = Peer(name)
        return started[name]

    yield peer
    for each in started.values():
        each.close()


@pytest.fixture(scope="module")
def met(request: pytest.FixtureRequest, peers: Callable[[str], Peer]) -> Iterator[Met]:
    row: Row = request.param
    peer = peers(row.peer)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        peer.ask("draw", model=row.model, folder=name, sizes_px=SIZES_PX)
        with np.load(folder / "theirs.npz") as arrays:
            theirs = {each: torch.from_numpy(arrays[each]) for each in arrays.files}
        ours = to_ours(row.arch, theirs, DIALECTS[row.dialect], where=str(row))
        met = Met(row, peer, folder, ours)
        yield met
    file = request.config.getoption("--record", default=None)
    wanted = {"difference", "back_again"} | ({"switched_off"} if any(switched_off(row.arch)) else set())
    if file is not None and met.measured.keys() >= wanted:
        told = {"what": "parity", "peer": row.peer, "peer_version": peer.introduction["version"], "model": row.model}
        ours = {"architecture": row.ours if isinstance(row.ours, str) else None, "dialect": row.dialect}
        record(file, {"switched_off": {}, **told, **ours, **met.measured})
