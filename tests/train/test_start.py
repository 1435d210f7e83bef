from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from anabranch.arch import Arch
from anabranch.arch import arch as row
from anabranch.errors import CheckpointError, DatasetError, RecipeError, UnknownName, WeightsMismatch
from anabranch.images.preprocess import Preprocess
from anabranch.nets.dialects import DIALECTS
from anabranch.nets.load import About, Trained, save_trained
from anabranch.nets.net import Net, build
from anabranch.nets.spelling import to_theirs
from anabranch.nets.store import write_tensors
from anabranch.train import start as module
from anabranch.train.start import begin, freeze, groups, parts, still
from anabranch.train.tables import RANDOM, Optimise, Start

SPEC = Arch(depths=(1, 1), width=8, groups=2, group_width=32, stem=(8,), shortcut="pool", squeeze=4)
NAMES = ("a", "b", "c")
RECIPE = Optimise(epochs=1, batch=4, lr=0.1, weight_decay=0.01)
PICTURES = torch.randn(4, 3, 33, 33, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(1)
    return build(SPEC, num_classes=3)


@pytest.fixture
def trained(tmp_path: Path, shake) -> tuple[Path, Net]:
    """The file of another net of the same spec and classes, and the net that is in it."""
    torch.manual_seed(2)
    other = shake(build(SPEC, num_classes=3))
    path = tmp_path / "model.safetensors"
    preprocess = Preprocess(crop_px=33, resize_px=33, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    save_trained(path, Trained(other, About(name="tiny", licence="CC0-1.0", class_names=NAMES, preprocess=preprocess)))
    return path, other


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


# ---- Weights -------------------------------------------------------------------------------------------------------


def test_a_run_begins_from_the_weights_of_a_file(net: Net, trained: tuple[Path, Net]) -> None:
    path, other = trained
    begin(net, Start(weights=str(path)), NAMES)
    assert same(net, other)


def test_with_the_head_dropped_all_but_the_classifier_is_the_files(trained: tuple[Path, Net]) -> None:
    path, other = trained
    net = build(SPEC, num_classes=7)
    fresh = net.head.weight.detach().clone()
    begin(net, Start(weights=str(path), head="drop"), tuple("abcdefg"))
    assert all(same(parts(net)[name], parts(other)[name]) for name in ("stem", "stages.0", "stages.1"))
    assert torch.equal(net.head.weight, fresh)


def test_other_classes_than_the_files_are_refused_unless_the_head_is_dropped(trained: tuple[Path, Net]) -> None:
    path, _ = trained
    with pytest.raises(
        RecipeError, match=r"knows 3 classes and the training pictures have 7; .*start\.head = \"drop\""
    ):
        begin(build(SPEC, num_classes=7), Start(weights=str(path)), tuple("abcdefg"))


def test_a_kept_classifier_is_put_in_the_order_of_the_pictures_classes(net: Net, trained: tuple[Path, Net]) -> None:
    path, other = trained
    begin(net, Start(weights=str(path)), ("c", "a", "b"))
    assert torch.equal(net.head.weight, other.head.weight[[2, 0, 1]])
    assert torch.equal(net.head.bias, other.head.bias[[2, 0, 1]])
    assert same(parts(net)["stages.1"], parts(other)["stages.1"])


def test_a_classifier_of_other_classes_is_not_kept_even_where_there_are_as_many(
    net: Net, trained: tuple[Path, Net]
) -> None:
    path, _ = trained
    with pytest.raises(DatasetError, match=r"does not know 'd', for one, .* or begin .*start\.head = \"drop\""):
        begin(net, Start(weights=str(path)), ("b", "c", "d"))


def test_weights_of_another_spec_are_refused_even_where_every_shape_fits(trained: tuple[Path, Net]) -> None:
    path, _ = trained
    theirs = replace(SPEC, stem_stride=4, shortcut="conv")
    with pytest.raises(RecipeError, match="they differ in shortcut; make arch what the weights are"):
        begin(build(theirs, num_classes=3), Start(weights=str(path)), NAMES)


def test_a_zoos_file_is_read_by_its_own_names(net: Net, tmp_path: Path, trained: tuple[Path, Net]) -> None:
    _, other = trained
    theirs = to_theirs(SPEC, other.state_dict(), DIALECTS["timm"])
    save_file({name: tensor.contiguous() for name, tensor in theirs.items()}, tmp_path / "timm.safetensors")
    begin(net, Start(weights=str(tmp_path / "timm.safetensors")), NAMES)
    assert same(net, other)


def test_a_zoos_file_of_another_net_is_refused_with_its_tensors(tmp_path: Path, trained: tuple[Path, Net]) -> None:
    _, other = trained
    theirs = to_theirs(SPEC, other.state_dict(), DIALECTS["timm"])
    save_file({name: tensor.contiguous() for name, tensor in theirs.items()}, tmp_path / "timm.safetensors")
    deeper = build(replace(SPEC, depths=(1, 2)), num_classes=3)
    with pytest.raises(WeightsMismatch, match=r"does not fit .*depths \[1, 2\].* missing"):
        begin(deeper, Start(weights=str(tmp_path / "timm.safetensors")), NAMES)


def test_a_running_run_is_no_net_to_begin_from(net: Net, tmp_path: Path) -> None:
    write_tensors(tmp_path / "last.safetensors", net.state_dict(), {"kind": "training run"})
    with pytest.raises(CheckpointError, match=r"holds a training run, .* a run's result is model.safetensors"):
        begin(net, Start(weights=str(tmp_path / "last.safetensors")), NAMES)


def test_a_name_in_the_catalogue_is_fetched(tmp_path: Path, monkeypatch, shake) -> None:
    other = shake(build("resnet18"))
    theirs = to_theirs(row("resnet18"), other.state_dict(), DIALECTS["timm"])
    save_file({name: tensor.contiguous() for name, tensor in theirs.items()}, tmp_path / "resnet18.safetensors")
    monkeypatch.setattr(module, "fetched", lambda weights: tmp_path / f"{weights.architecture}.safetensors")
    net = build("resnet18", num_classes=3)
    begin(net, Start(weights="resnet18.gluon_in1k", head="drop"), NAMES)
    assert all(same(parts(net)[name], parts(other)[name]) for name in ("stem", "stages.0", "stages.3"))


def test_weights_of_another_architecture_are_refused_before_they_are_fetched(net: Net, monkeypatch) -> None:
    monkeypatch.setattr(module, "fetched", lambda weights: pytest.fail("fetched"))
    with pytest.raises(RecipeError, match="is resnet18 and the recipe's arch is a bottleneck net"):
        begin(net, Start(weights="resnet18.gluon_in1k"), NAMES)


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ("resnet18", RecipeError, "is an architecture; say which of its weights: .*resnet18.gluon_in1k"),
        ("resnet18.gluon_in2k", UnknownName, "the nearest are .*resnet18.gluon_in1k"),
        ("runs/one/model.safetensors", RecipeError, "no such file; give a checkpoint or a name in the catalogue"),
    ],
)
def test_weights_that_nothing_here_has_are_named(net: Net, weights: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        begin(net, Start(weights=weights), NAMES)


# ---- Parts ---------------------------------------------------------------------------------------------------------


def learning(net: Net) -> set[str]:
    return {name for name, parameter in net.named_parameters() if parameter.requires_grad}


def test_every_parameter_is_in_one_part_in_the_order_of_the_net(net: Net) -> None:
    assert list(parts(net)) == ["stem", "stages.0", "stages.1", "head"]
    held = [id(parameter) for part in parts(net).values() for parameter in part.parameters()]
    assert held == [id(parameter) for parameter in net.parameters()]


def test_frozen_parts_stay_what_they_are_and_the_others_learn(net: Net) -> None:
    frozen = ("stem", "stages.0")
    freeze(net, frozen)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.train()
    still(net, frozen)
    stepping = torch.optim.SGD((each for each in net.parameters() if each.requires_grad), lr=0.1)
    net(PICTURES).square().sum().backward()
    stepping.step()
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith(frozen), name


def test_all_but_the_head_is_what_it_says(net: Net) -> None:
    freeze(net, ("all but head",))
    assert learning(net) == {"head.weight", "head.bias"}
    net.train()
    still(net, ("all but head",))
    assert {name for name, part in parts(net).items() if part.training} == {"head"}
    assert not any(each.training for each in net.modules() if isinstance(each, nn.BatchNorm2d))


def test_norms_may_learn_and_count_while_all_but_the_head_is_frozen(net: Net) -> None:
    freeze(net, ("all but head and norms",))
    norms = {
        f"{name}.{leaf}"
        for name, each in net.named_modules()
        if isinstance(each, nn.BatchNorm2d)
        for leaf in ("weight", "bias")
    }
    assert len(norms) > 8
    assert learning(net) == norms | {"head.weight", "head.bias"}
    net.train()
    still(net, ("all but head and norms",))
    net(PICTURES)
    assert all(each.num_batches_tracked == 1 for each in net.modules() if isinstance(each, nn.BatchNorm2d))


def test_nothing_frozen_leaves_all_learning(net: Net) -> None:
    freeze(net, ())
    assert learning(net) == {name for name, _ in net.named_parameters()}
    net.train()
    still(net, ())
    assert all(each.training for each in net.modules())


@pytest.mark.parametrize(
    ("frozen", "message"),
    [
        (("stages.2",), "names 'stages.2', .* nearest are .*stages.1.* Its parts are stem, stages.0, stages.1, head"),
        (("all but heads",), "nearest are all but head"),
        (("all but head", "stem"), "'all but head' says it all; leave the others out"),
        (("stem", "stages.0", "stages.1", "head"), "leaves nothing to learn"),
    ],
)
def test_parts_that_cannot_be_frozen_are_named(net: Net, frozen: tuple[str, ...], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        freeze(net, frozen)
    assert learning(net) == {name for name, _ in net.named_parameters()}


# ---- Rates ---------------------------------------------------------------------------------------------------------


def test_norms_and_biases_do_not_decay_unless_asked(net: Net) -> None:
    decayed, free = groups(net, RECIPE)
    assert decayed["params"] == [each for each in net.parameters() if each.ndim > 1]
    assert free["params"] == [each for each in net.parameters() if each.ndim == 1]
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.01, 0.0)
    assert decayed["lr_scale"] == free["lr_scale"] == 1.0
    every, none = groups(net, RECIPE.model_copy(update={"decay_norms": True}))
    assert every["params"] == list(net.parameters())
    assert none["params"] == []


def test_each_part_learns_slower_than_the_one_after_it(net: Net) -> None:
    scales = {id(each): group["lr_scale"] for group in groups(net, RECIPE, 0.5) for each in group["params"]}
    wanted = {"stem": 0.125, "stages.0": 0.25, "stages.1": 0.5, "head": 1.0}
    for name, part in parts(net).items():
        assert {scales[id(each)] for each in part.parameters()} == {wanted[name]}


def test_what_is_frozen_is_in_no_group(net: Net) -> None:
    freeze(net, ("all but head",))
    for layer_decay in (1.0, 0.5):
        held = [each for group in groups(net, RECIPE, layer_decay) for each in group["params"]]
        assert held == [net.head.weight, net.head.bias]


def test_random_weights_are_those_that_the_net_was_built_with() -> None:
    net = build(SPEC, num_classes=3)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    begin(net, Start(weights=RANDOM), NAMES)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
