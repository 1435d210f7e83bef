from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from anabranch.train.optimise import Ema, rate, sgd
from anabranch.train.recipe import Optimise

RECIPE = Optimise(epochs=10, batch=4, lr=0.4, warmup_epochs=2.0, weight_decay=0.01)


def test_the_rate_rises_linearly_then_follows_half_a_cosine_to_zero() -> None:
    rates = [rate(RECIPE, step, 5) for step in range(50)]
    assert rates[:10] == pytest.approx([0.04 * (step + 1) for step in range(10)])
    for step in range(10, 50):
        assert rates[step] == pytest.approx(0.2 * (1 + math.cos(math.pi * (step - 10) / 40)))
    assert rates[-1] < 0.001


def test_without_warm_up_the_first_step_has_the_full_rate() -> None:
    assert rate(RECIPE.model_copy(update={"warmup_epochs": 0.0}), 0, 5) == 0.4


def test_a_fraction_of_a_step_of_warm_up_does_not_overshoot() -> None:
    for warmup in (0.1, 0.25, 0.3):
        recipe = RECIPE.model_copy(update={"warmup_epochs": warmup})
        assert max(rate(recipe, step, 10) for step in range(100)) <= 0.4


def test_norms_and_biases_do_not_decay_unless_asked() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    decayed, free = sgd(net, RECIPE).param_groups
    assert [p.shape for p in decayed["params"]] == [(4, 3, 1, 1)]
    assert len(free["params"]) == 3
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.01, 0.0)
    asked = sgd(net, RECIPE.model_copy(update={"decay_norms": True})).param_groups
    assert [len(group["params"]) for group in asked] == [4, 0]


def test_the_running_mean_follows_its_formula() -> None:
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, 0.0)
    mean = Ema(net, 0.5)
    nn.init.constant_(net.weight, 1.0)
    mean.update(net, 1)  # keeps min(0.5, 2 / 11)
    assert mean.state["weight"].item() == pytest.approx(1 - 2 / 11)
    mean.update(net, 1000)  # keeps 0.5
    assert mean.state["weight"].item() == pytest.approx(0.5 * (1 - 2 / 11) + 0.5)


def test_the_running_mean_covers_statistics_and_copies_counters() -> None:
    net = nn.BatchNorm2d(2)
    mean = Ema(net, 0.9)
    net(torch.randn(8, 2, 3, 3) + 5)
    mean.update(net, 1000)
    assert mean.state["num_batches_tracked"] == 1
    torch.testing.assert_close(mean.state["running_mean"], 0.1 * net.running_mean)


def test_a_decay_of_zero_is_the_net_itself() -> None:
    net = nn.Linear(2, 2)
    mean = Ema(net, 0.0)
    nn.init.normal_(net.weight)
    mean.update(net, 1)
    torch.testing.assert_close(mean.state["weight"], net.weight.detach())
