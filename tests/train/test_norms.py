"""Two processes hold unequal shares of a batch; the oracle is torch's own norm over the whole of it, in one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from anabranch.arch import Arch
from anabranch.export.fold import folded
from anabranch.nets.net import Net, build
from anabranch.train.norms import synchronised

SHARES = (5, 2)
# one of the two processes: RANK FOLDER
PROCESS = """
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from anabranch.arch import Arch
from anabranch.nets.net import build
from anabranch.train.norms import synchronised

rank, folder = int(sys.argv[1]), Path(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
given = torch.load(folder / "given.pt")
net = build(Arch(**given["spec"]), num_classes=3).double()
net.load_state_dict(given["state"])
net = synchronised(net, 2).train()
x = given["x"].split(given["shares"])[rank].requires_grad_()
logits = net(x)
(logits * given["slopes"].split(given["shares"])[rank]).sum().backward()
grads = {name: each.grad for name, each in net.named_parameters()}

norm = synchronised(torch.nn.Sequential(torch.nn.BatchNorm2d(4)), 2)
half = given["maps"].split(given["shares"])[rank].bfloat16().requires_grad_()
normal = norm(half)
normal.float().square().sum().backward()
told = {"logits": logits.detach(), "x_grad": x.grad, "grads": grads, "state": net.state_dict(),
        "normal": normal.detach(), "half_grad": half.grad, "half_state": norm.state_dict()}
torch.save(told, folder / f"{rank}.pt")
dist.destroy_process_group()
"""
SPEC = {
    "block": "res2", "depths": (1, 1), "width": 8, "group_width": 32, "splits": 2,
    "stem": (8,), "shortcut": "pool", "squeeze": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def given() -> dict[str, object]:
    """A net, and a batch whose means are large beside their deviations and differ between the shares."""
    torch.manual_seed(0)
    x = torch.randn(sum(SHARES), 3, 33, 35, dtype=torch.float64) + 1000
    x[SHARES[0] :] += 500
    net = build(Arch(**SPEC), num_classes=3).double()
    return {
        "spec": SPEC,
        "state": net.state_dict(),
        "shares": list(SHARES),
        "x": x,
        "slopes": torch.randn(sum(SHARES), 3, dtype=torch.float64),
        "maps": torch.randn(sum(SHARES), 4, 3, 3),
    }


@pytest.fixture(scope="module")
def told(given, tmp_path_factory) -> list[dict[str, object]]:
    """What each of the two processes came to."""
    folder: Path = tmp_path_factory.mktemp("team")
    torch.save(given, folder / "given.pt")
    command = [sys.executable, "-W", "error", "-c", PROCESS]
    alone = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    processes = [subprocess.Popen([*command, str(rank), str(folder)], env=alone) for rank in range(2)]
    try:
        assert [process.wait(timeout=240) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()  # the other, where one failed
            process.wait()
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module")
def whole(given) -> tuple[Net, Tensor, Tensor]:
    """The net after one process has seen the whole batch, its logits, and the gradient of its input."""
    net = build(Arch(**SPEC), num_classes=3).double()
    net.load_state_dict(given["state"])
    x = given["x"].clone().requires_grad_()
    logits = net.train()(x)
    (logits * given["slopes"]).sum().backward()
    return net, logits.detach(), x.grad


def close(one: Tensor, other: Tensor) -> None:
    """As float64 is, with statistics that are six digits above what differs."""
    torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-8)


@pytest.mark.slow
def test_each_process_answers_as_one_with_the_whole_batch_would(told, whole) -> None:
    close(torch.cat([each["logits"] for each in told]), whole[1])


@pytest.mark.slow
def test_gradients_of_the_pictures_are_those_of_the_whole_batch(told, whole) -> None:
    close(torch.cat([each["x_grad"] for each in told]), whole[2])


@pytest.mark.slow
def test_gradients_of_the_weights_add_up_to_those_of_the_whole_batch(told, whole) -> None:
    for name, parameter in whole[0].named_parameters():
        close(told[0]["grads"][name] + told[1]["grads"][name], parameter.grad)


@pytest.mark.slow
def test_every_process_keeps_the_statistics_of_the_whole_batch(told, whole) -> None:
    state = whole[0].state_dict()
    for each in told:
        assert list(each["state"]) == list(state)
        for name, value in each["state"].items():
            close(value, state[name])


@pytest.mark.slow
def test_half_precision_goes_through_with_statistics_in_single(told, given) -> None:
    norm = nn.BatchNorm2d(4)
    x = given["maps"].bfloat16().float().requires_grad_()
    normal = norm(x)
    normal.square().sum().backward()
    for each, share in zip(told, normal.detach().split(SHARES), strict=True):
        assert each["normal"].dtype == each["half_grad"].dtype == torch.bfloat16
        torch.testing.assert_close(each["normal"].float(), share, rtol=1e-2, atol=1e-2)
        torch.testing.assert_close(each["half_state"]["0.running_var"], norm.running_var)


def test_in_evaluation_mode_a_synchronised_net_is_the_net(shake) -> None:
    x = torch.randn(2, 3, 33, 33)
    net = shake(build(Arch(**SPEC), num_classes=3))
    names = list(net.state_dict())
    parameters = [id(each) for each in net.parameters()]
    with torch.inference_mode():
        before = net(x)
        after = synchronised(net, 2)(x)
        torch.testing.assert_close(after, before, rtol=0, atol=0)
        torch.testing.assert_close(folded(net)(x), before, rtol=1e-4, atol=1e-5)
    assert list(net.state_dict()) == names
    assert [id(each) for each in net.parameters()] == parameters
    norms = [each for each in net.modules() if isinstance(each, nn.BatchNorm2d)]
    assert norms
    assert all(type(each) is not nn.BatchNorm2d for each in norms)


def test_a_process_alone_keeps_its_norms() -> None:
    net = synchronised(build(Arch(**SPEC), num_classes=3), 1)
    assert {type(each) for each in net.modules() if isinstance(each, nn.BatchNorm2d)} == {nn.BatchNorm2d}
