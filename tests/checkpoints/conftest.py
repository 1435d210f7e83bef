from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from anabranch.arch import ARCHITECTURES
from anabranch.nets.dialects import DIALECTS
from anabranch.nets.net import Net, build
from anabranch.nets.spelling import to_theirs

# Reads each file in turn, prints by how many bytes it raised the most memory ever held, and what was said of it.
MEASURE = """
import json, resource, sys
from pathlib import Path
from anabranch.checkpoints.read import read_checkpoint
from anabranch.errors import CheckpointError

unit = 1 if sys.platform == "darwin" else 1024
said = {}
for name in sys.argv[1:]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        read_checkpoint(Path(name))
        error = ""
    except CheckpointError as caught:
        error = str(caught)
    said[name] = ((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit, error)
print(json.dumps(said))
"""
Measured = dict[Path, tuple[int, str]]


@pytest.fixture
def measured() -> Callable[..., Measured]:
    """Reads files in a process of its own: file -> (bytes of memory it took beyond all before it, the error)."""

    def measure(*paths: Path) -> Measured:
        done = subprocess.run([sys.executable, "-c", MEASURE, *map(str, paths)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return {Path(name): (taken, error) for name, (taken, error) in json.loads(done.stdout).items()}

    return measure


@pytest.fixture(scope="session")
def small_net(shake):
    """A function from an architecture's name to a net of it with random weights, always the same ones."""
    made: dict[tuple[str, int], Net] = {}

    def net(name: str, num_classes: int = 1000) -> Net:
        if (name, num_classes) not in made:
            torch.manual_seed(0)
            made[name, num_classes] = shake(build(name, num_classes=num_classes))
        return made[name, num_classes]

    return net


@pytest.fixture(scope="session")
def spelled(small_net):
    """A function that gives such a net's tensors in a dialect."""

    def tensors(name: str, told: str, num_classes: int = 1000) -> dict[str, Tensor]:
        theirs = to_theirs(ARCHITECTURES[name], small_net(name, num_classes).state_dict(), DIALECTS[told])
        return {key: tensor.contiguous() for key, tensor in theirs.items()}

    return tensors


@pytest.fixture
def saved(tmp_path, spelled):
    """A function that writes them as the zoo would."""

    def file(name: str, told: str, num_classes: int = 1000) -> Path:
        tensors = spelled(name, told, num_classes)
        if told == "paddleclas":
            path = tmp_path / f"{name}.pdparams"
            path.write_bytes(pickle.dumps({key: tensor.numpy() for key, tensor in tensors.items()}, protocol=2))
            return path
        path = tmp_path / f"{name}.pth"
        torch.save({"meta": {}, "state_dict": tensors} if told == "mmpretrain" else tensors, path)
        return path

    return file
