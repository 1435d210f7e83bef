"""How the tests talk with a publisher's code: a line of JSON each way, and the tensors in .npz files beside.

This runs in the publisher's own environment, which knows nothing of this project and may lack torch: numpy is enough.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

Tensors = Mapping[str, np.ndarray]

# Ends of the names of what is not drawn as weights are: torch's words and Paddle's
VARIANCES = ("running_var", "_variance")
MEANS = ("running_mean", "_mean", "bias")

BATCH = 2


class Zoo(Protocol):
    """A publisher's code. It holds one net, in eval mode: building another forgets the last."""

    def version(self) -> str: ...

    def names(self) -> list[str]:
        """Every net that it can build."""

    def build(self, name: str) -> None: ...

    def state(self) -> Tensors:
        """Everything that the net keeps, as it is named and laid out there."""

    def fan_in(self, shape: tuple[int, ...]) -> int:
        """How many inputs a convolution's or a linear layer's weights of this shape sum over."""

    def load(self, tensors: Tensors) -> None:
        """By its own strict way: raises where a tensor is missing, left over or misshapen."""

    def logits(self, pictures: np.ndarray) -> np.ndarray:
        """(N, 3, H, W) float32 -> (N, K) float32"""

    def save(self, stem: Path) -> Path:
        """The net in a file as its users keep it, with its own suffix."""

    def read(self, file: Path) -> Tensors:
        """What such a file holds, by its own reader."""


def converse(zoo: Zoo) -> None:
    """Answer each line of standard input until there are no more."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever libraries print must not come between the replies
    for line in sys.stdin:
        try:
            reply = answer(zoo, **json.loads(line))
        except Exception:  # told to who asked, in whose process the test fails
            reply = {"error": traceback.format_exc()}
        print(json.dumps(reply), file=replies, flush=True)


def answer(zoo: Zoo, *, do: str, **what: Any) -> dict[str, Any]:
    if do == "introduce":
        return {"version": zoo.version(), "names": zoo.names()}
    folder = Path(what["folder"])
    if do == "draw":
        zoo.build(what["model"])
        draw(zoo, folder, [tuple(size) for size in what["sizes_px"]])
        return {}
    if do == "load":
        forget(zoo)
        zoo.load(zoo.read(Path(what["file"])))
        see(zoo, folder, "again.npz")
        return {}
    if do == "save":
        return {"file": str(zoo.save(folder / "saved"))}
    raise ValueError(f"a zoo cannot {do!r}")


def draw(zoo: Zoo, folder: Path, sizes_px: list[tuple[int, int]]) -> None:
    """Random tensors into the net and theirs.npz, random pictures of (height, width), and the logits."""
    random = np.random.default_rng(0)
    drawn = {name: value(zoo, name, tensor, random) for name, tensor in zoo.state().items()}
    zoo.load(drawn)
    np.savez(folder / "theirs.npz", **drawn)
    pictures = {
        f"{height}x{width}": random.standard_normal((BATCH, 3, height, width), dtype=np.float32)
        for height, width in sizes_px
    }
    np.savez(folder / "pictures.npz", **pictures)
    see(zoo, folder, "first.npz")


def value(zoo: Zoo, name: str, tensor: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Drawn so that activations keep their size through many layers, and no tensor is neutral."""
    shape = tensor.shape
    if tensor.dtype == np.int64:  # counts of batches, which nothing computes with
        return random.integers(1, 1000, shape)
    if name.endswith(VARIANCES):
        return random.uniform(0.5, 1.5, shape).astype(np.float32)
    drawn = random.standard_normal(shape, dtype=np.float32)
    if name.endswith(MEANS):
        drawn *= np.float32(0.1)
    elif len(shape) == 1:  # a norm's gains
        drawn = np.float32(0.75) + np.float32(0.1) * drawn
    else:
        drawn *= np.float32(zoo.fan_in(shape) ** -0.5)
    return drawn


def forget(zoo: Zoo) -> None:
    """Nothing of what was drawn stays: a tensor that the next load leaves out makes every logit NaN."""
    nothing = {np.dtype(np.int64): -1}
    zoo.load(
        {
            name: np.broadcast_to(np.array(nothing.get(tensor.dtype, np.nan), tensor.dtype), tensor.shape)
            for name, tensor in zoo.state().items()
        }
    )


def see(zoo: Zoo, folder: Path, name: str) -> None:
    """The net's logits of the pictures, in a file of this name."""
    with np.load(folder / "pictures.npz") as pictures:
        np.savez(folder / name, **{size: zoo.logits(pictures[size]) for size in pictures.files})
