"""Batch norm folded into the convolution before it, over a whole net, and one convolution at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor, nn

from anabranch.nets.blocks import ConvNorm

Module = TypeVar("Module", bound=nn.Module)


def folded(module: Module) -> Module:
    """The same function in evaluation mode, with one convolution for every convolution and norm.

    `module` stays as it is. What folding does not change (squeezes, the head) is shared with it, not copied, so the
    only new memory is the folded convolutions'.
    """
    done: dict[int, object] = {id(part): part.folded() for part in module.modules() if isinstance(part, ConvNorm)}
    shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(module, {**done, **shared}).eval()


def folded_tensors(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Each tensor of `folded(module)`: its name there, and a function that gives it.

    A folded convolution's weights are computed anew by each call, so that they need not be held; its biases, which are
    few, are held.
    """
    if isinstance(module, ConvNorm):
        bias = module.folded().get_parameter("0.bias")
        yield f"{prefix}0.bias", bias.detach
        yield f"{prefix}0.weight", partial(_folded_weight, module)
        return
    for name, tensor in chain(module.named_parameters(recurse=False), module.named_buffers(recurse=False)):
        yield prefix + name, tensor.detach
    for name, child in module.named_children():
        yield from folded_tensors(child, f"{prefix}{name}.")


def _folded_weight(part: ConvNorm) -> Tensor:
    return part.folded().get_parameter("0.weight").detach()


def hollow(module: Module) -> Module:
    """A copy on the meta device, where tensors have shapes but neither values nor memory. `module` stays as it is."""
    without_values: dict[int, object] = {
        id(tensor): nn.Parameter(torch.empty_like(tensor, device="meta"), requires_grad=False)
        for tensor in module.parameters()
    }
    without_values |= {id(tensor): torch.empty_like(tensor, device="meta") for tensor in module.buffers()}
    return copy.deepcopy(module, without_values)
