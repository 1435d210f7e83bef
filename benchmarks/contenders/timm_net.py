"""A net of timm, with random weights: python timm_net.py NAME eager|channels-last|onnxruntime THREADS."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch_zoos import declare_missing_operators
from turns import take_turns

if __name__ == "__main__":
    name, way, threads = sys.argv[1:]
    operators = declare_missing_operators()
    import timm

    torch.set_num_threads(int(threads))
    net = timm.create_model(name).eval()
    if way == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(threads)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "net.onnx"
            shapes = {"x": {0: "batch"}}
            example = torch.zeros(2, 3, 224, 224)
            torch.onnx.export(net, (example,), file, input_names=["x"], dynamic_axes=shapes, dynamo=False)
            session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        take_turns(lambda x: session.run(None, {"x": x}), dtype="float32", layout="NCHW")
    else:
        layout = torch.channels_last if way == "channels-last" else torch.contiguous_format
        net = net.to(memory_format=layout)

        def answer(x: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                logits: np.ndarray = net(torch.from_numpy(x).contiguous(memory_format=layout)).numpy()
            return logits

        take_turns(answer, dtype="float32", layout="NCHW")
