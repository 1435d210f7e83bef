"""The processes that train together: one, or as many as `torchrun` started."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


class Team:
    """This process among `processes` of them. Leave with `with Team() as team`."""

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", 0))
        self.processes = int(os.environ.get("WORLD_SIZE", 1))
        local = int(os.environ.get("LOCAL_RANK", 0))
        self.device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")

    def __enter__(self) -> Team:
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        if self.processes > 1:
            dist.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
        return self

    def __exit__(self, *failure: object) -> None:
        if self.processes > 1:
            dist.destroy_process_group()

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes files and speaks."""
        return self.rank == 0

    def wrap(self, net: nn.Module) -> nn.Module:
        """The net with its gradients averaged over the team."""
        return DistributedDataParallel(net) if self.processes > 1 else net

    def total(self, values: Tensor) -> Tensor:
        """The sum of `values` over the team, on the processor."""
        if self.processes > 1:
            values = values.to(self.device)  # nccl adds on GPUs alone
            dist.all_reduce(values)
        return values.cpu()
