"""ONNX Runtime: the second engine, which runs wherever an ONNX file does; on the CPU, or by CUDA or TensorRT."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from anabranch.artefact import file_ending, sha256
from anabranch.cache import cache_folder
from anabranch.card import Card
from anabranch.disk import is_text
from anabranch.engines import onnxruntime, usable_cores
from anabranch.errors import ArtefactError, UsageError, shown
from anabranch.runtimes.external import external_files
from anabranch.runtimes.predictor import check_graph

if TYPE_CHECKING:  # half as long to import as numpy itself
    from numpy.typing import NDArray

_ERRORS_ONLY = 3  # of its five levels of talk
_SETTINGS = {  # else CUDA's f32 has 10 of its 23 bits
    ("CUDAExecutionProvider", "f32"): {"use_tf32": "0"},
    ("TensorrtExecutionProvider", "f16"): {"trt_fp16_enable": "1"},
}
_BUILT_FOR = (1, 32)  # pictures at once, between which one engine of TensorRT's answers for any number


class OnnxRuntimePredictor:
    """predict: (N, S, S, 3) uint8 -> (N, K) float32, for any thread."""

    name = "onnxruntime"
    provider: str | None = None  # beside the CPU's
    fused = True

    def __init__(
        self,
        files: dict[str, Path],
        card: Card,
        *,
        precision: str,
        threads: int | None,
        streams: int = 1,
        settings: Mapping[str, str] | None = None,
    ):
        """`settings`: more of the provider's, beside those that the precision wants."""
        self.card = card
        self.engine = f"{self.name} {precision}"
        self.streams = streams
        self._graph = OnnxRuntimeGraph(
            files,
            precision=precision,
            threads=threads,
            streams=streams,
            provider=self.provider,
            settings=settings,
            fused=self.fused,
        )
        check_graph(self._graph.path, card, takes=self._graph.takes, gives=self._graph.gives[0])

    def predict(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.card.check_pixels(pixels)
        return self._graph(pixels)[0]


class CudaPredictor(OnnxRuntimePredictor):
    name, provider = "onnxruntime-cuda", "CUDAExecutionProvider"


class NotBuilt(UsageError):
    """TensorRT has no engine for a graph."""


class TensorRtPredictor(OnnxRuntimePredictor):
    """It builds its engine as it is opened for the first time, for minutes, and keeps it in the cache.

    Raises NotBuilt where that fails.
    """

    name, provider = "onnxruntime-tensorrt", "TensorrtExecutionProvider"

    def __init__(self, files: dict[str, Path], card: Card, *, precision: str, threads: int | None):
        kept = _folder_to_keep(files.values())
        held = [] if kept is None else list(kept.iterdir())
        try:
            self._open(files, card, precision=precision, threads=threads, kept=kept)
        except NotBuilt:
            if not held:
                raise
            for file in held:  # another TensorRT's, or cut short: it builds nothing anew by itself
                file.unlink(missing_ok=True)
            self._open(files, card, precision=precision, threads=threads, kept=kept)

    def predict(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.card.check_pixels(pixels)
        most = max(_BUILT_FOR)
        return np.concatenate([self._graph(pixels[first : first + most])[0] for first in range(0, len(pixels), most)])

    def _open(
        self, files: dict[str, Path], card: Card, *, precision: str, threads: int | None, kept: Path | None
    ) -> None:
        settings = {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(kept),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(kept),
        }
        super().__init__(files, card, precision=precision, threads=threads, settings=settings if kept else None)
        try:
            for pictures in _BUILT_FOR:  # it answers for any number between those that it has met
                self.predict(np.zeros((pictures, card.size_px, card.size_px, 3), np.uint8))
        except Exception as error:  # its errors share no other base
            raise NotBuilt(f"TensorRT has no engine for {self._graph.path}: {_last_line(error)}") from None


class RoundedPredictor(OnnxRuntimePredictor):
    """INT8 graphs for other processors: rounded as they say, and computed in floats, in which nothing overflows."""

    name, fused = "onnxruntime, rounded", False


class OnnxRuntimeGraph:
    """One input and all outputs of a graph's files. One session serves all threads, which share its own."""

    def __init__(
        self,
        files: dict[str, Path],
        *,
        precision: str,
        threads: int | None,
        streams: int = 1,
        provider: str | None = None,
        settings: Mapping[str, str] | None = None,
        fused: bool = True,
    ):
        self.path = file_ending(files, ".onnx")
        _want_named(self.path, set(files.values()))
        ort = onnxruntime()
        options = ort.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        if not fused:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = max(1, (threads or usable_cores()) - streams + 1)  # beside those that call
        providers: list[str | tuple[str, dict[str, str]]] = ["CPUExecutionProvider"]
        if provider is not None:
            _want(provider, ort.get_available_providers())
            providers.insert(0, (provider, {**_SETTINGS.get((provider, precision), {}), **(settings or {})}))
        if not is_text(self.path):
            raise ArtefactError(f"{self.path}: ONNX Runtime opens no path that is not UTF-8; move the artefact")
        try:
            self._session = ort.InferenceSession(str(self.path), options, providers=providers)
        except Exception as error:  # its errors share no other base
            raise ArtefactError(f"ONNX Runtime cannot read {self.path}: {_last_line(error)}") from None
        if provider is not None:
            _want(provider, self._session.get_providers())  # it goes on without one whose libraries it does not find
        self.takes = self._session.get_inputs()[0].shape
        self.gives = [output.shape for output in self._session.get_outputs()]

    def __call__(self, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        answered: list[NDArray[np.float32]] = self._session.run(None, {"pixels": np.ascontiguousarray(pixels)})
        return answered


def _folder_to_keep(files: Iterable[Path]) -> Path | None:
    """Where TensorRT is to keep what it builds of this graph, which it does not tell from another of other weights.

    None where no folder can be made.
    """
    key = hashlib.sha256("".join([onnxruntime().__version__, *map(sha256, files)]).encode()).hexdigest()
    folder = cache_folder() / "tensorrt" / key[:32]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder


def _last_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[-1]


def _want_named(path: Path, files: Collection[Path]) -> None:
    """Raises ArtefactError where tensors of a graph lie in a file that the card does not name."""
    try:
        names = external_files(path)
    except ValueError as error:
        raise ArtefactError(f"ONNX Runtime cannot read {path}: {error}. Export the artefact again") from None
    for name in names:
        if path.parent / name not in files:
            raise ArtefactError(
                f"{path} takes weights from the file {shown(name)!r}, which its card does not name. "
                "Export the artefact again"
            )


def _want(provider: str, offered: list[str]) -> None:
    if provider not in offered:
        raise UsageError(
            f"this ONNX Runtime offers no {provider}; install onnxruntime-gpu, and the CUDA libraries that it names, "
            "or take the engine onnxruntime, which computes on the CPU"
        )
