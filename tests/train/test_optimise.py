from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from anabranch.arch import Arch
from anabranch.nets.net import Net, build
from anabranch.train.optimise import Ema, averaged, clip, optimiser, rate, scaled_lr
from anabranch.train.tables import Optimise

RECIPE = Optimise(epochs=10, batch=4, lr=0.4, warmup_epochs=2.0, weight_decay=0.01)
PLAIN = Optimise(epochs=10, batch=4, lr=0.1)


def asked(recipe: Optimise = PLAIN, **changes: object) -> Optimise:
    return Optimise.model_validate({**recipe.model_dump(), **changes})


# ---- The rate ------------------------------------------------------------------------------------------------------


def test_the_rate_rises_linearly_then_follows_half_a_cosine_to_zero() -> None:
    rates = [rate(RECIPE, step, 5) for step in range(50)]
    assert rates[:10] == pytest.approx([0.04 * (step + 1) for step in range(10)])
    for step in range(10, 50):
        assert rates[step] == pytest.approx(0.2 * (1 + math.cos(math.pi * (step - 10) / 40)))
    assert rates[-1] < 0.001


def test_without_warm_up_the_first_step_has_the_full_rate() -> None:
    assert rate(asked(RECIPE, warmup_epochs=0.0), 0, 5) == 0.4


def test_a_fraction_of_a_step_of_warm_up_does_not_overshoot() -> None:
    for warmup in (0.1, 0.25, 0.3):
        recipe = asked(RECIPE, warmup_epochs=warmup)
        assert max(rate(recipe, step, 10) for step in range(100)) <= 0.4


def test_a_warm_up_may_begin_above_zero() -> None:
    recipe = asked(RECIPE, warmup_from=0.2)
    rates = [rate(recipe, step, 5) for step in range(10)]
    assert rates == pytest.approx([0.4 * (0.2 + 0.8 * (step + 1) / 10) for step in range(10)])


def test_a_cosine_may_end_above_zero() -> None:
    recipe = asked(RECIPE, final_lr=0.1)
    assert rate(recipe, 10, 5) == pytest.approx(0.4)
    assert rate(recipe, 30, 5) == pytest.approx(0.25)  # half way
    assert rate(recipe, 50, 5) == pytest.approx(0.1)


def test_the_rate_of_steps_falls_at_the_epochs_that_are_named() -> None:
    recipe = asked(schedule="step", step_epochs=(3, 6), step_factor=0.1)
    rates = [rate(recipe, step, 5) for step in range(50)]
    assert rates == pytest.approx([0.1] * 15 + [0.01] * 15 + [0.001] * 20)


def test_the_rate_is_scaled_to_the_batch() -> None:
    recipe = asked(batch=512, lr=0.1, lr_batch=256)
    assert scaled_lr(recipe) == pytest.approx(0.2)
    assert rate(recipe, 0, 5) == pytest.approx(0.2)
    assert scaled_lr(asked(batch=512)) == 0.1


# ---- The optimiser -------------------------------------------------------------------------------------------------

START = np.array([[3.0, -4.0], [0.5, 12.0]])
SHIFT = np.array([0.3, -0.1])
GRADIENTS = [np.array([[0.2, -0.1], [0.4, 0.05]]), np.array([[-0.3, 0.2], [0.1, 0.6]])]
SHIFT_GRADIENTS = [np.array([0.02, -0.3]), np.array([0.1, 0.05])]


def moved(recipe: Optimise) -> tuple[np.ndarray, np.ndarray]:
    """A matrix that decays and a vector that does not, after one step along each of the gradients."""
    weight, shift = (nn.Parameter(torch.from_numpy(each.copy())) for each in (START, SHIFT))
    groups = [
        {"params": [weight], "weight_decay": recipe.weight_decay, "lr_scale": 1.0},
        {"params": [shift], "weight_decay": 0.0, "lr_scale": 1.0},
    ]
    stepping = optimiser(groups, recipe)
    for gradient, shift_gradient in zip(GRADIENTS, SHIFT_GRADIENTS, strict=True):
        weight.grad, shift.grad = torch.from_numpy(gradient.copy()), torch.from_numpy(shift_gradient.copy())
        stepping.step()
    return weight.detach().numpy(), shift.detach().numpy()


@pytest.mark.parametrize("nesterov", [True, False])
def test_sgd_follows_its_formula(nesterov: bool) -> None:
    weight, velocity = START.copy(), np.zeros_like(START)
    for gradient in GRADIENTS:
        gradient = gradient + 0.01 * weight
        velocity = 0.9 * velocity + gradient
        weight = weight - 0.1 * (gradient + 0.9 * velocity if nesterov else velocity)
    result, _ = moved(asked(weight_decay=0.01, nesterov=nesterov))
    np.testing.assert_allclose(result, weight)


def test_sgd_without_momentum_has_no_nesterov_step() -> None:
    _, shift = moved(asked(momentum=0.0))
    np.testing.assert_allclose(shift, SHIFT - 0.1 * sum(SHIFT_GRADIENTS))


def test_adamw_follows_its_formula() -> None:
    weight, mean, square = START.copy(), 0.0, 0.0
    for step, gradient in enumerate(GRADIENTS, start=1):
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        weight = weight * (1 - 0.1 * 0.02)
        weight = weight - 0.1 * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    result, _ = moved(asked(optimiser="adamw", weight_decay=0.02))
    np.testing.assert_allclose(result, weight)


def test_rmsprop_follows_its_formula_with_the_epsilon_outside_the_root() -> None:
    weight, velocity, square = START.copy(), 0.0, 0.0
    for gradient in GRADIENTS:
        gradient = gradient + 0.01 * weight
        square = 0.9 * square + 0.1 * gradient**2
        velocity = 0.9 * velocity + gradient / (np.sqrt(square) + 0.0316)
        weight = weight - 0.1 * velocity
    result, _ = moved(asked(optimiser="rmsprop", weight_decay=0.01))
    np.testing.assert_allclose(result, weight)


@pytest.mark.slow
def test_lamb_follows_its_formula() -> None:
    state = [[START.copy(), 0.0, 0.0], [SHIFT.copy(), 0.0, 0.0]]
    for gradients in zip(GRADIENTS, SHIFT_GRADIENTS, strict=True):
        norm = math.sqrt(sum((each**2).sum() for each in gradients))
        for which, (values, mean, square) in enumerate(state):
            gradient = gradients[which] / max(1.0, norm)
            mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
            update = mean / (np.sqrt(square) + 1e-6)
            if which == 0:  # the matrix: its decay is in the update, and its norm of 13 sets the length
                update = update + 0.02 * values
                update = update * np.linalg.norm(values) / np.linalg.norm(update)
            state[which] = [values - 0.1 * update, mean, square]
    weight, shift = moved(asked(optimiser="lamb", weight_decay=0.02))
    np.testing.assert_allclose(weight, state[0][0], rtol=1e-5)
    np.testing.assert_allclose(shift, state[1][0], rtol=1e-5)


# ---- Clipped gradients ---------------------------------------------------------------------------------------------


@pytest.fixture
def steep() -> Net:
    """A net with gradients far longer than its weights, but for its stem's, which are short."""
    torch.manual_seed(0)
    net = build(Arch(block="basic", depths=(1,), width=4, stem=(4,), stem_stride=1), num_classes=3)
    for name, parameter in net.named_parameters():
        parameter.grad = torch.randn_like(parameter) * (1e-6 if name.startswith("stem") else 10)
    return net


def gradients(net: Net) -> dict[str, np.ndarray]:
    return {name: each.grad.double().numpy().copy() for name, each in net.named_parameters() if each.grad is not None}


def test_clipping_by_norm_shortens_the_whole_gradient(steep: Net) -> None:
    before = gradients(steep)
    clip(steep, asked(clip_norm=2.0))
    length = math.sqrt(sum((each**2).sum() for each in before.values()))
    for name, after in gradients(steep).items():
        np.testing.assert_allclose(after, before[name] * 2.0 / length, rtol=1e-4)


def test_adaptive_clipping_shortens_each_units_gradient_to_a_share_of_its_weights(steep: Net) -> None:
    before = gradients(steep)
    clip(steep, asked(clip_adaptive=0.02))
    weights = {name: each.detach().double().numpy() for name, each in steep.named_parameters()}
    for name, after in gradients(steep).items():
        rows = weights[name].shape[0] if weights[name].ndim > 1 else 1
        for unit in range(rows):
            weight, was, now = (each[name].reshape(rows, -1)[unit] for each in (weights, before, {name: after}))
            longest = 0.02 * max(np.linalg.norm(weight), 1e-3)
            shrunk = min(1.0, longest / np.linalg.norm(was)) if not name.startswith("head.") else 1.0
            np.testing.assert_allclose(now, was * shrunk, rtol=1e-4, err_msg=name)


def test_gradients_are_left_alone_unless_clipping_is_asked_for(steep: Net) -> None:
    before = gradients(steep)
    clip(steep, PLAIN)
    for name, after in gradients(steep).items():
        np.testing.assert_array_equal(after, before[name])


def test_parameters_without_a_gradient_are_passed_over(steep: Net) -> None:
    steep.stem.conv1.conv.weight.grad = None
    clip(steep, asked(clip_norm=2.0, clip_adaptive=0.02))
    assert steep.stem.conv1.conv.weight.grad is None


# ---- Means of the weights ------------------------------------------------------------------------------------------


def test_the_running_mean_follows_its_formula() -> None:
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, 0.0)
    mean = Ema(net, 0.5)
    nn.init.constant_(net.weight, 1.0)
    mean.update(net, 1)  # keeps min(0.5, 2 / 11)
    assert mean.state["weight"].item() == pytest.approx(1 - 2 / 11)
    mean.update(net, 1000)  # keeps 0.5
    assert mean.state["weight"].item() == pytest.approx(0.5 * (1 - 2 / 11) + 0.5)


def test_the_running_mean_may_move_every_few_steps() -> None:
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, 0.0)
    mean = Ema(net, 0.5, steps=3)
    nn.init.constant_(net.weight, 1.0)
    moved = []
    for step in range(1, 7):
        mean.update(net, step)
        moved.append(mean.state["weight"].item())
    first = 1 - 2 / 11
    second = 1 - (1 - first) * 3 / 12  # its second update keeps min(0.5, 3 / 12)
    assert moved == pytest.approx([0, 0, first, first, first, second])


def test_the_running_mean_covers_statistics_and_copies_counters() -> None:
    net = nn.BatchNorm2d(2)
    mean = Ema(net, 0.9)
    net(torch.randn(8, 2, 3, 3) + 5)
    mean.update(net, 1000)
    assert mean.state["num_batches_tracked"] == 1
    torch.testing.assert_close(mean.state["running_mean"], 0.1 * net.running_mean)


@pytest.mark.parametrize("steps", [1, 32])
def test_a_decay_of_zero_is_the_net_itself(steps: int) -> None:
    net = nn.Linear(2, 2)
    mean = Ema(net, 0.0, steps)
    nn.init.normal_(net.weight)
    mean.update(net, 1)
    torch.testing.assert_close(mean.state["weight"], net.weight.detach())


def test_averaged_states_are_their_mean_and_the_last_ones_counts() -> None:
    weights = [torch.tensor([0.1, 1e8]), torch.tensor([0.2, 1.0]), torch.tensor([0.4, -1e8])]
    states = [{"weight": weight, "batches": torch.tensor(i)} for i, weight in enumerate(weights)]
    mean = averaged(states)
    exact = np.mean([weight.double().numpy() for weight in weights], axis=0)
    assert mean["weight"].dtype == torch.float32
    np.testing.assert_array_equal(mean["weight"].numpy(), exact.astype(np.float32))
    assert mean["batches"] == 2
