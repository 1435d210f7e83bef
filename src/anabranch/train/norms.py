"""Batch norms that see the whole batch of a team of processes, and not each its process's share."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Module = TypeVar("Module", bound=nn.Module)


def synchronised(net: Module, processes: int) -> Module:
    """The net itself, its norms' statistics taken over the team from now on. In a team of one nothing changes.

    The tensors and their names stay the net's. To be called with the net on its device, before it is wrapped.
    """
    if processes == 1:
        return net
    if next(net.parameters()).is_cuda:
        nn.SyncBatchNorm.convert_sync_batchnorm(net)  # type: ignore[no-untyped-call]
        return net
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, _over_the_team(child))
    return net


def _over_the_team(norm: nn.BatchNorm2d) -> TeamNorm:
    team = TeamNorm(norm.num_features, norm.eps, norm.momentum, device="meta")
    team.weight, team.bias = norm.weight, norm.bias
    team.running_mean, team.running_var = norm.running_mean, norm.running_var
    team.num_batches_tracked = norm.num_batches_tracked
    return team.train(norm.training)


class TeamNorm(nn.BatchNorm2d):
    """Batch norm over all processes, on the processor, where torch.nn.SyncBatchNorm does not run.

    (N, C, H, W) -> same shape; N may differ between processes. In evaluation mode it is the norm that it replaces.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        mean, var, count = _statistics(x.detach().to(self.weight.dtype))
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(var * (count / (count - 1)), self.momentum)  # unbiased, as torch keeps it
        y: Tensor = _Normalised.apply(x, self.weight, self.bias, mean, var, count, self.eps)  # type: ignore[no-untyped-call]
        return y


def _statistics(x: Tensor) -> tuple[Tensor, Tensor, float]:
    """Mean (C,), biased variance (C,) and number of values of each channel, over all processes.

    Each process's own are combined, which loses nothing where the mean is large beside the deviation, as the mean of
    the squares would. Source: Chan et al. 1979.
    """
    var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    own = torch.cat([mean, var, mean.new_tensor([x.numel() / x.shape[1]])]).double()
    each = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(each, own)
    means, variances, counts = torch.split(torch.stack(each), [len(mean), len(var), 1], 1)  # (P, 2 C + 1) -> 3 tables
    count = counts.sum()
    mean = (counts * means).sum(0) / count
    var = (counts * (variances + (means - mean) ** 2)).sum(0) / count
    return mean.to(x.dtype), var.to(x.dtype), count.item()


class _Normalised(torch.autograd.Function):
    """weight * (x - mean) / sqrt(var + eps) + bias, with mean and var depending on x in every process.

    Source: Ioffe & Szegedy 2015, section 3, with its sums over the batch taken over the processes.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, count: float, eps: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, torch.rsqrt(var + eps))
        ctx.count = count
        return F.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, gain = ctx.saved_tensors
        mean, gain, scale = (each[:, None, None] for each in (mean, gain, weight * gain))  # (C,) -> (C, 1, 1)
        normal = (x.to(weight.dtype) - mean) * gain
        wide = grad.to(weight.dtype)
        bias_grad = wide.sum((0, 2, 3))
        weight_grad = (wide * normal).sum((0, 2, 3))
        means = torch.stack([bias_grad, weight_grad])  # a copy: each process keeps its own share of the two
        dist.all_reduce(means)
        through_mean, through_var = (means / ctx.count)[:, :, None, None]  # (2, C) -> twice (C, 1, 1)
        x_grad = scale * (wide - through_mean - normal * through_var)
        return x_grad.to(x.dtype), weight_grad, bias_grad, None, None, None, None
