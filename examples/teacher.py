"""A teacher in a process of its own: a classifier in ONNX, in an environment without torch and without anabranch.

    anabranch train RECIPE --set 'distil.teacher=["python", "examples/teacher.py", "net.onnx", "net.json"]'

The graph takes (N, 3, S, S) float32 and gives (N, K) logits. net.json tells how its pixels are normalised, in parts of
white, and its classes in their order: {"classes": ["ant", ...], "mean": [0.485, ...], "std": [0.229, ...]}. Whatever
else answers in Python teaches as well: copy `serve`. Wants numpy and onnxruntime.
"""

import hashlib
import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime


def serve(net: Callable[[np.ndarray], np.ndarray], **about: object) -> None:
    """Answer every batch of standard input on standard output. What else is printed goes to standard error."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    answers.write(json.dumps(about).encode() + b"\n")
    answers.flush()
    while line := sys.stdin.buffer.readline():
        shape = json.loads(line)["shape"]
        x = np.frombuffer(sys.stdin.buffer.read(4 * math.prod(shape)), "<f4").reshape(shape)
        logits = np.ascontiguousarray(net(x), "<f4")
        answers.write(json.dumps({"shape": logits.shape}).encode() + b"\n" + logits.tobytes())
        answers.flush()


def main(graph: Path, about: Path) -> None:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    identity = hashlib.sha256(graph.read_bytes()).hexdigest()
    serve(lambda x: session.run(None, {name: x})[0], **json.loads(about.read_text("utf-8")), identity=identity)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
