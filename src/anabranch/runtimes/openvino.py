"""OpenVINO on the CPU: the default engine."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from anabranch.artefact import file_ending
from anabranch.cache import cache_folder
from anabranch.card import Card
from anabranch.engines import openvino_core
from anabranch.errors import ArtefactError, UsageError
from anabranch.runtimes.predictor import check_graph

if TYPE_CHECKING:  # half as long to import as numpy itself
    from numpy.typing import NDArray

_CAPABILITY = {"f32": "FP32", "bf16": "BF16", "int8": "INT8"}

# Compiled graphs of larger nets would take more room in the cache than their faster start is worth.
_CACHED_UP_TO_BYTES = 512 << 20
_CACHED_IN_ALL_BYTES = 4 << 30  # beyond it, those that have not been used for longest go
_KEPT = re.compile(r"[0-9a-f]{32}|\d+\.blob")  # a folder of a graph's, or a file of the predictor in C++
_END_BYTES = 1 << 16


class OpenVinoPredictor:
    """predict: (N, S, S, 3) uint8 -> (N, K) float32, for any thread."""

    def __init__(self, files: dict[str, Path], card: Card, *, precision: str, threads: int | None, streams: int):
        self.card = card
        self.engine = f"openvino {precision}"
        self.streams = streams
        self._graph = OpenVinoGraph(files, precision=precision, threads=threads, streams=streams)
        check_graph(self._graph.path, card, takes=self._graph.takes, gives=self._graph.gives[0])

    def predict(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.card.check_pixels(pixels)
        return self._graph(pixels)[0]


class OpenVinoGraph:
    """One input and all outputs of a graph's files. One request per calling thread."""

    def __init__(
        self,
        files: dict[str, Path],
        *,
        precision: str,
        threads: int | None,
        streams: int = 1,
        keeps_sizes: bool = True,
    ):
        """`keeps_sizes`: what is prepared for each size of pictures is kept, 0.7 MB for each, up to gigabytes."""
        self.path, weights = (file_ending(files, end) for end in (".xml", ".bin"))
        want_offered(precision)
        core = openvino_core()
        # Without a precision by name OpenVINO takes bf16 wherever the processor has it. What is INT8 the graph says.
        hint = "f32" if precision == "int8" else precision
        config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
        if not keeps_sizes:
            config["CPU_RUNTIME_CACHE_CAPACITY"] = 0
        if streams > 1:
            config |= {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": streams}
        if threads is not None:
            config["INFERENCE_NUM_THREADS"] = threads
        try:
            model = core.read_model(self.path, weights)
        except RuntimeError as error:
            raise ArtefactError(f"OpenVINO cannot read {self.path}: {_last_line(error)}") from None
        self.takes, self.gives = _shape(model.input(0)), [_shape(output) for output in model.outputs]
        with _held(_folder_to_keep(files, self.path, config)) as cached:
            self._compiled = core.compile_model(model, "CPU", config | cached)
        self._requests = threading.local()

    def __call__(self, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        request = getattr(self._requests, "one", None)
        if request is None:
            request = self._requests.one = self._compiled.create_infer_request()
        pixels = np.ascontiguousarray(pixels)
        # On a thread of the engine, as quick as on this one. OpenVINO 2026.4 keeps something for each thread that has
        # computed, and where such a thread ends just as the graph goes, it writes into memory that was freed.
        try:
            request.start_async([pixels], share_inputs=True)
            request.wait()
        except BaseException:  # Ctrl-C among them: it may be busy for a while, with these pixels
            self._requests.one = None
            raise
        # A tensor that answers belongs to the request and is overwritten by its next answer: hand out copies.
        return [np.array(request.get_output_tensor(index).data) for index in range(len(self.gives))]


def offered_precisions() -> tuple[str, ...]:
    """What the processor computes in OpenVINO, of f32, bf16 and int8."""
    offered = openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return tuple(precision for precision, capability in _CAPABILITY.items() if capability in offered)


def want_offered(precision: str) -> None:
    """Raises UsageError where the processor does not compute in it."""
    if precision not in offered_precisions():
        raise UsageError(f"this processor computes no {precision} in OpenVINO; f32 runs everywhere")


def _folder_to_keep(files: dict[str, Path], xml: Path, config: dict[str, Any]) -> Path | None:
    """Where OpenVINO is to keep this graph, compiled for this configuration: a third of the time to a first answer.

    None where the graph is too large, or the folder cannot be written.
    """
    sizes = [path.stat().st_size for path in files.values()]
    if sum(sizes) > _CACHED_UP_TO_BYTES:
        return None
    told = repr((sizes, sorted(config.items()))).encode()
    key = hashlib.sha256(xml.read_bytes() + b"".join(map(_end, files.values())) + told).hexdigest()
    folder = cache_folder() / "openvino" / key[:32]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)  # the time of its last use
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def _end(path: Path) -> bytes:
    """Of weights, those of the head: enough to keep graphs of other weights in other folders."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _END_BYTES))
        return file.read()


@contextmanager
def _held(folder: Path | None) -> Iterator[dict[str, str]]:
    """What tells OpenVINO to keep a graph in this folder, beside others that take it from there, or alone to make it.

    It writes a graph bit by bit under its final name, where another process would meet half of it. And of one that is
    damaged it notices a header, or an end that is missing, and would go on with wrong weights: so what is there without
    its checksum is removed.
    """
    with ExitStack() as stack:
        is_made = False
        if folder is not None:
            try:
                is_made = _is_held_whole(folder, stack.enter_context((folder / ".lock").open("ab")))
            except OSError:  # nothing is kept on a disk that is full
                folder = None
        if folder is None:
            yield {}
            return
        yield {"CACHE_DIR": str(folder)}
        if not is_made:
            for blob in folder.glob("*.blob"):
                with suppress(OSError):  # without it, the graph is compiled anew the next time
                    _checksum_file(blob).write_bytes(_checksum(blob))
            _let_go(folder.parent, but=folder)


def _is_held_whole(folder: Path, lock: BinaryIO) -> bool:
    """Whether a graph is kept there; where none is, the folder is empty, and held alone. Raises OSError."""
    _lock(lock, alone=False)
    if _is_whole(folder):
        return True
    _lock(lock, alone=True)
    if _is_whole(folder):  # which another has made meanwhile
        return True
    for file in (*folder.glob("*.blob"), *folder.glob("*.crc32")):
        file.unlink(missing_ok=True)
    return False


def _lock(file: BinaryIO, *, alone: bool) -> None:
    """Wait for it, and hold it until the file is closed; not on Windows, nor in a file system without locks."""
    with suppress(ImportError, OSError):
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)


def _is_whole(folder: Path) -> bool:
    """Whether a graph is kept there, with its checksum."""
    blobs = [*folder.glob("*.blob")]
    noted = [(_checksum_file(blob), blob) for blob in blobs]
    return bool(blobs) and all(note.is_file() and note.read_bytes() == _checksum(blob) for note, blob in noted)


def _let_go(folder: Path, *, but: Path) -> None:
    """Remove the graphs that have not been used for longest, until the others fit. What is in use stays open."""
    with suppress(OSError):  # where another process is at it too, it is done
        used = {each: _last_used(each) for each in folder.iterdir() if _KEPT.fullmatch(each.name) and each != but}
        room = _CACHED_IN_ALL_BYTES - _size_bytes(but)
        for each in sorted(used, key=used.__getitem__, reverse=True):
            room -= _size_bytes(each)
            if room < 0 and each.is_dir():
                shutil.rmtree(each, ignore_errors=True)
            elif room < 0:
                each.unlink(missing_ok=True)


def _last_used(place: Path) -> float:
    """A folder has the time of its last use; of a file that was read, the system tells it to the day."""
    told = place.stat()
    return told.st_mtime if place.is_dir() else max(told.st_mtime, told.st_atime)


def _size_bytes(place: Path) -> int:
    return sum(file.stat().st_size for file in (place.iterdir() if place.is_dir() else [place]))


def _checksum_file(blob: Path) -> Path:
    return blob.with_suffix(".crc32")


def _checksum(path: Path) -> bytes:
    """CRC-32: a twentieth of a second for 100 MB, against accidents and not against malice."""
    checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            checksum = zlib.crc32(chunk, checksum)
    return b"%08x\n" % checksum


def _shape(port: Any) -> tuple[int | None, ...]:
    return tuple(size.get_length() if size.is_static else None for size in port.get_partial_shape())


def _last_line(error: RuntimeError) -> str:
    return [line for line in str(error).splitlines() if line.strip()][-1].strip()
