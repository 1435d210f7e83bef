"""An artefact's net as a backbone: feature maps of pictures of any size, and one vector for each."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from anabranch.artefact import checked_files, read_card
from anabranch.card import FEATURES, Card
from anabranch.errors import ArtefactError, UsageError
from anabranch.runtimes.open import ENGINES, known_engine
from anabranch.runtimes.predictor import check_pictures

if TYPE_CHECKING:  # half as long to import as numpy itself
    import numpy as np
    from numpy.typing import NDArray


class Backbone:
    """What detection, segmentation and retrieval take of a net. Safe from several threads."""

    def __init__(self, run: Callable[[NDArray[np.uint8]], list[NDArray[np.float32]]], card: Card, engine: str):
        self.card = card
        self.engine = engine
        self._run = run

    @property
    def channels(self) -> tuple[int, ...]:
        """Of each stage's map."""
        return tuple(self.card.spec.channels(stage) for stage in range(len(self.card.spec.depths)))

    @property
    def strides(self) -> tuple[int, ...]:
        """Of each stage's map: 4, 8, 16, 32 for the nets of ImageNet."""
        return tuple(self.card.spec.stem_stride << stage for stage in range(len(self.card.spec.depths)))

    def features(self, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """(N, H, W, 3) RGB -> each stage's (N, C, H/stride, W/stride), rounded up.

        Nets whose stem pools without padding, as Cadene's, may have a row and a column less.

        H and W are any from the largest stride on. Raises UsageError.
        """
        check_pictures(pixels, "a backbone", least_px=self.strides[-1])
        return self._run(pixels)[:-1]

    def embed(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, H, W, 3) RGB of such sizes -> (N, C), the mean of the last map. Raises UsageError."""
        check_pictures(pixels, "a backbone", least_px=self.strides[-1])
        return self._run(pixels)[-1]


def open_backbone(
    folder: Path | str, *, engine: str = "openvino", threads: int | None = None, verify: bool = False
) -> Backbone:
    """The backbone of an artefact that was exported with one. See `open_model`.

    Raises UsageError, ArtefactError, MissingExtra.
    """
    folder = Path(folder)
    card = read_card(folder)
    chosen = known_engine(engine, threads=threads)
    if chosen.graph is None:
        having = ", ".join(name for name, each in ENGINES.items() if each.graph)
        raise UsageError(f"{engine} runs no backbones here; these do: {having}")
    graph = card.graphs.get(chosen.format, {}).get(FEATURES)
    if graph is None:
        raise ArtefactError(f"{folder} holds no backbone for {engine}; export the net again with --backbone")
    files = checked_files(folder, graph.files, verify=verify)
    module, _, name = chosen.graph.partition(":")
    bounded = {"keeps_sizes": False} if engine == "openvino" else {}  # or its memory would grow with each size
    run = getattr(importlib.import_module(module), name)(files, precision="f32", threads=threads, **bounded)
    backbone = Backbone(run, card, f"{engine} {FEATURES}")
    met, wanted = [shape[1] for shape in run.gives], [*backbone.channels, backbone.channels[-1]]
    if met != wanted:
        raise ArtefactError(f"{run.path} gives {met} channels; the card says {wanted}. Export the artefact again")
    return backbone
