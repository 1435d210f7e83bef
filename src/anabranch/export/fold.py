"""Batch norm folded into the convolution before it, over a whole net."""

from __future__ import annotations

import copy

from anabranch.nets.blocks import ConvNorm
from anabranch.nets.net import Net


def folded(net: Net) -> Net:
    """The same function in evaluation mode, with one convolution for every convolution and norm.

    `net` stays as it is. What folding does not change (squeezes, the head) is shared with it, not copied, so the only
    new memory is the folded convolutions'.
    """
    done: dict[int, object] = {id(part): part.folded() for part in net.modules() if isinstance(part, ConvNorm)}
    shared = {id(tensor): tensor for tensor in (*net.parameters(), *net.buffers())}
    return copy.deepcopy(net, {**done, **shared}).eval()
