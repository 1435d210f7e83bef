"""Graphs of an artefact that resize and crop by themselves: decoded pictures in, logits out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from anabranch.artefact import checked_files, read_card
from anabranch.card import ANY_SIZE, Card
from anabranch.errors import ArtefactError, UsageError, nearest
from anabranch.runtimes.open import known_engine
from anabranch.runtimes.openvino import OpenVinoGraph
from anabranch.runtimes.predictor import check_pictures

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class AnySize:
    """What a server or program that only decodes runs. Safe from several threads."""

    def __init__(self, graph: OpenVinoGraph, card: Card, engine: str):
        self.card = card
        self.engine = engine
        self._graph = graph

    def predict(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, H, W, 3) RGB, any H and W -> (N, K) logits, within what `card.agreement` says.

        Raises UsageError, also for pictures so long and narrow that the graph's whole numbers would overflow.
        """
        check_pictures(pictures, "a graph of any size")
        stored = pictures.shape[1:3]
        resized = self.card.preprocess.resized(*stored)
        if any(2 * (before + 1) * (after + 1) >= 1 << 31 for before, after in zip(stored, resized, strict=True)):
            raise UsageError(
                f"pictures of {stored[1]} x {stored[0]} pixels are too narrow for a graph of any size, which would "
                f"make {resized[1]} x {resized[0]} of them; crop them first"
            )
        return self._graph(pictures)[0]


def open_any_size(
    folder: Path | str, *, precision: str = "f32", threads: int | None = None, verify: bool = False
) -> AnySize:
    """What an artefact that was exported with `--any-size` holds. See `open_model`.

    Raises UsageError, ArtefactError.
    """
    if precision not in ANY_SIZE:
        raise UsageError(
            f"a graph of any size does not compute in {precision!r}; the nearest is {nearest(precision, ANY_SIZE)[0]}"
        )
    known_engine("openvino", precision, threads=threads)
    folder = Path(folder)
    card = read_card(folder)
    held = card.graphs.get("openvino", {}).get(ANY_SIZE[precision])
    if held is None:
        raise ArtefactError(
            f"{folder} holds no graph in {precision} that resizes by itself; export the net again with --any-size"
        )
    files = checked_files(folder, held.files, verify=verify)
    graph = OpenVinoGraph(files, precision=precision, threads=threads, keeps_sizes=False)
    if graph.takes != (None, None, None, 3) or graph.gives[0][1:] != (card.num_classes,):
        raise ArtefactError(
            f"{graph.path} takes {graph.takes} and gives {graph.gives[0]}; the card says (N, H, W, 3) and "
            f"(N, {card.num_classes}). Export the artefact again"
        )
    return AnySize(graph, card, f"openvino {ANY_SIZE[precision]}")
