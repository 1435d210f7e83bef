from __future__ import annotations

from typing import Any

import pytest

from anabranch.checkpoints.containers import innermost, without_prefixes
from anabranch.checkpoints.steps import Unreadable

WEIGHTS = {"conv1.weight": 1, "bn1.bias": 2}
MEAN = {"conv1.weight": 3, "bn1.bias": 4}


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        (WEIGHTS, []),
        ({"state_dict": WEIGHTS, "epoch": 3, "optimizer": {"state": {}}}, ["state_dict"]),
        ({"model": WEIGHTS, "args": None}, ["model"]),
        ({"model": "resnext50", "model_state_dict": WEIGHTS}, ["model_state_dict"]),
        ({"params": WEIGHTS}, ["params"]),
        ({"model": {"state_dict": WEIGHTS}}, ["model", "state_dict"]),
        ({"meta": {"epoch": 1}, "state_dict": WEIGHTS}, ["state_dict"]),
        ({"model_ema": WEIGHTS}, ["model_ema"]),
        ({"state_dict": WEIGHTS, "state_dict_ema": MEAN}, ["state_dict (state_dict_ema is there too)"]),
    ],
)
def test_the_dict_of_the_weights_is_found_inside_what_training_programs_put_around_it(
    entries: dict[str, Any], words: list[str]
) -> None:
    assert innermost(entries, ema=False) == (WEIGHTS, words)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"state_dict": WEIGHTS, "state_dict_ema": MEAN}, ["state_dict_ema"]),
        ({"model": WEIGHTS, "model_ema": {"state_dict": MEAN}}, ["model_ema", "state_dict"]),
        ({"model": {"state_dict": WEIGHTS, "ema_state_dict": MEAN}}, ["model", "ema_state_dict"]),
        ({"params": WEIGHTS, "params_ema": MEAN}, ["params_ema"]),
        ({"model": WEIGHTS, "ema": MEAN}, ["ema"]),
    ],
)
def test_averaged_weights_are_taken_where_they_are_asked_for(entries: dict[str, Any], words: list[str]) -> None:
    assert innermost(entries, ema=True) == (MEAN, words)


@pytest.mark.parametrize("entries", [WEIGHTS, {"state_dict": WEIGHTS}])
def test_averaged_weights_asked_for_and_absent_are_an_error(entries: dict[str, Any]) -> None:
    with pytest.raises(Unreadable, match="holds no averaged weights"):
        innermost(entries, ema=True)


@pytest.mark.parametrize("ema", [False, True])
def test_mmengine_keeps_the_averaged_weights_in_state_dict_whichever_are_asked_for(ema: bool) -> None:
    saved = {"meta": {}, "state_dict": MEAN, "ema_state_dict": {"steps": 9, "module.conv1.weight": 1}}
    inner, words = innermost(saved, ema=ema)
    assert inner is MEAN
    assert words == ["state_dict (averaged; mmengine keeps the trained one in ema_state_dict)"]


def test_two_dicts_that_could_both_be_the_weights_are_named() -> None:
    with pytest.raises(Unreadable, match="under state_dict and model, and nothing says which"):
        innermost({"model": WEIGHTS, "state_dict": WEIGHTS}, ema=False)


def test_a_dict_that_holds_itself_has_an_end() -> None:
    entries: dict[str, Any] = {}
    entries["model"] = entries
    with pytest.raises(Unreadable, match="dicts within dicts"):
        innermost(entries, ema=False)


@pytest.mark.parametrize(
    ("prefix", "words"),
    [
        ("", []),
        ("module.", ["module."]),
        ("_orig_mod.", ["_orig_mod."]),
        ("model.", ["model."]),
        ("module.module.", ["module.", "module."]),
        ("_orig_mod.module.", ["_orig_mod.", "module."]),
        ("module._orig_mod.model.", ["module.", "_orig_mod.", "model."]),
        ("backbone.", []),
    ],
)
def test_prefixes_that_all_names_share_are_taken_off_one_by_one(prefix: str, words: list[str]) -> None:
    held, taken = without_prefixes({prefix + name: value for name, value in WEIGHTS.items()})
    assert taken == words
    assert held == ({f"backbone.{name}": value for name, value in WEIGHTS.items()} if "backbone" in prefix else WEIGHTS)


def test_a_prefix_that_some_names_lack_stays() -> None:
    mixed = {"module.conv1.weight": 1, "fc.weight": 2}
    assert without_prefixes(mixed) == (mixed, [])


@pytest.mark.parametrize("counter", ["steps", "n_averaged"])
def test_the_counter_beside_averaged_weights_is_dropped(counter: str) -> None:
    held, words = without_prefixes({counter: 7, "module.conv1.weight": 1, "module.bn1.bias": 2})
    assert (held, words) == (WEIGHTS, [counter, "module."])


def test_a_tensor_called_as_a_counter_stays_among_names_without_the_wrappers_prefix() -> None:
    assert without_prefixes({"steps": 7, **WEIGHTS}) == ({"steps": 7, **WEIGHTS}, [])
