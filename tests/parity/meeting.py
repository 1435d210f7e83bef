"""A publisher's net and ours, with the same random tensors."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anabranch.arch import Arch
from anabranch.nets.load import load_strictly
from anabranch.nets.net import Net
from parity.models import Row
from parity.peer import Peer


@dataclass
class Met:
    row: Row
    peer: Peer
    folder: Path
    ours: dict[str, torch.Tensor]  # by our names
    measured: dict[str, Any] = field(default_factory=dict)

    def load(self, arch: Arch) -> Net:
        """A net of ours with the tensors. Raises WeightsMismatch where they are not its own."""
        with torch.device("meta"):
            net = Net(arch)
        load_strictly(net, self.ours, where=str(self.row), assign=True)
        return net.eval()

    def answers(self, name: str) -> dict[str, np.ndarray]:
        """The publisher's logits of every size, from its first answer or its later one."""
        with np.load(self.folder / name) as logits:
            return dict(logits)

    def difference(self, net: Net, size: str) -> float:
        """Of our logits from the publisher's, the largest one over the publisher's largest logit."""
        theirs = self.answers("first.npz")[size]
        with np.load(self.folder / "pictures.npz") as pictures, torch.inference_mode():
            ours = net(torch.from_numpy(pictures[size])).numpy()
        assert np.isfinite(theirs).all()
        assert np.isfinite(ours).all()
        return float(np.abs(ours - theirs).max() / np.abs(theirs).max())
