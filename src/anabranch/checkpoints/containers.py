"""What training programs put around a state dict: dicts under known keys, and prefixes that all its names share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anabranch.checkpoints.steps import Unreadable

_PLAIN = ("state_dict", "model", "model_state_dict", "params")
_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "params_ema", "ema")
_PREFIXES = ("module.", "_orig_mod.", "model.")  # of DataParallel, torch.compile, Lightning
_COUNTERS = ("steps", "n_averaged")  # beside averaged weights: mmengine's, torch.optim.swa_utils'
_DEEPEST = 8


def innermost(entries: Mapping[Any, Any], *, ema: bool) -> tuple[Mapping[Any, Any], list[str]]:
    """The dict of the weights, and what was taken off around it. Raises Unreadable where it is not one alone.

    `ema` asks for the averaged weights where a file holds both. mmengine exchanges the two when it saves, so that
    `state_dict` is the averaged one whichever is asked for; its `steps` betrays it.
    Source: mmengine/hooks/ema_hook.py, `before_save_checkpoint`."""
    words: list[str] = []
    is_averaged = False
    for _ in range(_DEEPEST):
        plain, averaged = _held(entries, _PLAIN), _held(entries, _AVERAGED)
        if not plain and not averaged:
            break
        if plain == "state_dict" and averaged == "ema_state_dict" and "steps" in entries[averaged]:
            key, is_averaged = plain, True
            word = "state_dict (averaged; mmengine keeps the trained one in ema_state_dict)"
        elif averaged and (not plain or (ema and not is_averaged)):
            key = word = averaged
            is_averaged = True
        else:
            key = plain
            word = f"{plain} ({averaged} is there too)" if averaged else plain
        entries = entries[key]
        words.append(word)
    else:
        raise Unreadable(f"holds dicts within dicts deeper than {_DEEPEST}; save the state dict alone")
    if ema and not is_averaged:
        raise Unreadable(f"holds no averaged weights (none of {', '.join(_AVERAGED)}); take it without them")
    return entries, words


def _held(entries: Mapping[Any, Any], keys: tuple[str, ...]) -> str:
    """The one of these keys under which there is a dict, or nothing."""
    held = [key for key in keys if isinstance(entries.get(key), dict)]
    if len(held) > 1:
        raise Unreadable(f"holds weights under {' and '.join(held)}, and nothing says which; save one of them alone")
    return held[0] if held else ""


def without_prefixes(entries: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The same with short names, and what was taken off them: prefixes that all share, and counters that have none."""
    held = dict(entries)
    words: list[str] = []
    for counter in _COUNTERS:
        others = held.keys() - {counter}
        if len(others) < len(held) and others and all(name.startswith("module.") for name in others):
            del held[counter]
            words.append(counter)
    while held and (shared := [prefix for prefix in _PREFIXES if all(name.startswith(prefix) for name in held)]):
        held = {name.removeprefix(shared[0]): value for name, value in held.items()}
        words.append(shared[0])
    return held, words
