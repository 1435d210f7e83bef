"""The processes that train together: one, or as many as `torchrun` started."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # here, since it holds for ever the group that there is when it is imported
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from anabranch.errors import Error, RecipeError, UsageError, need
from anabranch.train.freed import keep_freed_memory
from anabranch.train.stopping import variable_number

_GONE = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")  # in gloo's words
_OF_TORCHRUN = ("RANK", "MASTER_ADDR", "MASTER_PORT")  # what torch wants to know beside WORLD_SIZE


class Team:
    """This process among `processes` of them. Leave with `with Team() as team`.

    Raises UsageError where torchrun's variables are not all there, or there are more processes than GPUs; and, on
    leaving, Error in place of gloo's RuntimeError where another process has ended before.
    """

    def __init__(self) -> None:
        self.processes = variable_number("WORLD_SIZE", 1)
        self.rank = variable_number("RANK", 0) if self.processes > 1 else 0  # one left from elsewhere says nothing
        if self.processes > 1 and (missing := [name for name in _OF_TORCHRUN if name not in os.environ]):
            raise UsageError(
                f"WORLD_SIZE = {self.processes} says that so many processes train, and {', '.join(missing)} "
                f"{'is' if len(missing) == 1 else 'are'} not set; start them with torchrun, or unset WORLD_SIZE"
            )
        local = variable_number("LOCAL_RANK", 0)
        self.device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
        if self.device.type == "cuda" and local >= torch.cuda.device_count():
            raise UsageError(
                f"this machine has {torch.cuda.device_count()} GPUs and process {local} finds none left; "
                "start at most as many processes on it, or set CUDA_VISIBLE_DEVICES= to train on the processor"
            )

    def __enter__(self) -> Team:
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
            torch.backends.cudnn.benchmark = True  # each shape comes thousands of times
        else:
            keep_freed_memory()
        if self.processes > 1:
            dist.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
        return self

    def __exit__(self, kind: type[BaseException] | None, failure: BaseException | None, trace: object) -> None:
        if self.processes == 1:
            return
        dist.destroy_process_group()
        if isinstance(failure, RuntimeError) and any(said in str(failure) for said in _GONE):
            raise Error(
                "another process of this run has ended, and this one cannot go on alone: what the other said tells "
                "why (nothing, where the system ended it because memory ran out); go on with --resume"
            ) from failure

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes files and speaks."""
        return self.rank == 0

    def wrap(self, net: nn.Module) -> nn.Module:
        """The net with its gradients averaged over the team."""
        if self.processes == 1:
            return net
        # With this its buckets keep their first layout. Laid out anew after the first step, as they otherwise are, a
        # resumed run would add the gradients of three or more processes in another order.
        # Its group lives for as long as it does itself, which a traceback may hold until Python ends. The threads that
        # send the tensors of `share`, `union`, `total` and the norms must be gone by then, since one that frees such a
        # tensor while Python shuts down aborts the process. So these have another group, which ends with the team.
        own = dist.new_group() if self.device.type == "cpu" else None
        return DistributedDataParallel(net, find_unused_parameters=True, process_group=own)

    def share(self, state: Mapping[str, Tensor]) -> None:
        """Give every process the leading one's tensors, in place."""
        if self.processes > 1:
            for tensor in state.values():
                dist.broadcast(tensor, 0)

    def union(self, lines: list[str]) -> list[str]:
        """The lines of all processes, each once, the same for each of them."""
        if self.processes == 1:
            return lines
        told: list[list[str]] = [[] for _ in range(self.processes)]
        dist.all_gather_object(told, lines)
        return list(dict.fromkeys(line for each in told for line in each))

    @contextmanager
    def alone_in(self, folder: Path) -> Iterator[None]:
        """Hold the run's folder, and take away what a killed run left half written in it.

        Raises RecipeError where another run writes into it, such as one left by a kill.
        """
        if not self.leads:
            yield
            return
        filelock = need("filelock", extra="train")
        lock, new = folder / ".lock", not folder.exists()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise RecipeError(f"{folder}: this is a file; give a folder with --out") from None
        except OSError as error:
            raise RecipeError(f"{folder}: cannot be made ({error.strerror}); give another folder with --out") from None
        try:
            with filelock.FileLock(lock, blocking=False):
                for left in folder.glob(".*.part"):
                    left.unlink()
                yield
                new = False
        except filelock.Timeout:
            new = False  # the other one made it, though perhaps after this one had looked
            raise RecipeError(f"{folder}: another process trains here; wait for it or end it") from None
        finally:
            if new and [*folder.iterdir()] == [lock]:  # of a run that was refused
                lock.unlink()
                folder.rmdir()

    def total(self, values: Tensor) -> Tensor:
        """The sum of `values` over the team, on the processor."""
        if self.processes > 1:
            values = values.to(self.device)  # nccl adds on GPUs alone
            dist.all_reduce(values)
        return values.cpu()


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"the processor, {threads} thread{'s' if threads > 1 else ''}"
