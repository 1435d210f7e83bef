"""The worked example of a backbone, against the publisher's own whole model with the same weights."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from parity import environments
from parity.models import TOLERANCE

pytestmark = pytest.mark.parity
ROOT = Path(__file__).parents[2]


def test_our_features_under_their_head_give_their_models_masks(tmp_path: Path) -> None:
    peers = ROOT / "tests/parity/peers"
    done = subprocess.run(
        [environments.python("torch"), peers / "segmentation.py", ROOT / "examples", tmp_path],
        env=os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{peers}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["shape"] == [2, 5, 96, 160]
    assert told["difference"] <= TOLERANCE * told["largest"]
