"""A net of PaddleClas, with random weights, in Paddle Inference with oneDNN: python paddle_net.py NAME THREADS."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import paddle
from paddle import inference
from paddle_zoo import import_nets
from turns import take_turns

if __name__ == "__main__":
    name, threads = sys.argv[1:]
    net = getattr(import_nets(), name)()
    net.eval()
    with tempfile.TemporaryDirectory() as folder:
        stem = Path(folder) / "inference"
        paddle.jit.save(net, str(stem), input_spec=[paddle.static.InputSpec([None, 3, 224, 224], "float32", "x")])
        [graph] = [path for path in stem.parent.iterdir() if path.suffix in (".json", ".pdmodel")]
        config = inference.Config(str(graph), str(stem.with_suffix(".pdiparams")))
        config.disable_gpu()
        config.enable_mkldnn()
        config.set_cpu_math_library_num_threads(int(threads))
        config.disable_glog_info()
        predictor = inference.create_predictor(config)
    takes = predictor.get_input_handle(predictor.get_input_names()[0])
    gives = predictor.get_output_handle(predictor.get_output_names()[0])

    def answer(x: np.ndarray) -> np.ndarray:
        takes.reshape(x.shape)
        takes.copy_from_cpu(x)
        predictor.run()
        logits: np.ndarray = gives.copy_to_cpu()
        return logits

    take_turns(answer, dtype="float32", layout="NCHW")
