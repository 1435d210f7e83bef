"""A teacher in a process of its own: a classifier in ONNX, in an environment without torch and without anabranch.

    anabranch train RECIPE --set 'distil.teacher=["python", "examples/teacher.py", "net.onnx", "net.json"]'

The graph takes (N, 3, S, S) float32 and gives (N, K) logits. net.json tells how its pixels are normalised, in parts of
white, and its classes in their order: {"classes": ["ant", ...], "mean": [0.485, ...], "std": [0.229, ...]}. Whatever
else answers in Python teaches as well: copy what stands above `main`. Wants numpy and onnxruntime.
"""

import hashlib
import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path

# Standard output is for answers alone. What libraries print from here on, as they load too, goes to standard error.
ANSWERS = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)

import numpy as np  # noqa: E402
import onnxruntime  # noqa: E402


def serve(net: Callable[[np.ndarray], np.ndarray], **about: object) -> None:
    """Say what the teacher is, and answer every batch of standard input."""
    ANSWERS.write(json.dumps(about).encode() + b"\n")
    ANSWERS.flush()
    while line := sys.stdin.buffer.readline():
        shape = json.loads(line)["shape"]
        data = sys.stdin.buffer.read(4 * math.prod(shape))
        if len(data) < 4 * math.prod(shape):  # the run was ended
            return
        logits = np.ascontiguousarray(net(np.frombuffer(data, "<f4").reshape(shape)), "<f4")
        ANSWERS.write(json.dumps({"shape": logits.shape}).encode() + b"\n" + logits.tobytes())
        ANSWERS.flush()


def main(graph: Path, about: Path) -> None:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    parts = sorted(graph.parent.glob(f"{graph.name}*"))  # with the weights that lie beside it, as torch exports them
    identity = hashlib.sha256(b"".join(hashlib.sha256(part.read_bytes()).digest() for part in parts)).hexdigest()
    serve(lambda x: session.run(None, {name: x})[0], **json.loads(about.read_text("utf-8")), identity=identity)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
