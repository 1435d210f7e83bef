"""segmentation-models-pytorch's own FPN beside examples/segmentation.py with the same weights: prints the difference.

`python segmentation.py EXAMPLES FOLDER`, with anabranch to be imported.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch_zoos import declare_missing_operators

operators = declare_missing_operators()

import segmentation_models_pytorch as smp  # noqa: E402

sys.path.insert(0, sys.argv[1])
from segmentation import Segmenter  # noqa: E402

import anabranch  # noqa: E402

torch.manual_seed(0)
theirs = smp.FPN("resnext50_32x4d", encoder_weights=None, classes=5).eval()
for module in theirs.modules():
    if isinstance(module, torch.nn.BatchNorm2d):
        torch.nn.init.normal_(module.running_mean, std=0.1)
        torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
weights = Path(sys.argv[2]) / "encoder.pth"
torch.save(theirs.encoder.state_dict(), weights)

ours = Segmenter(anabranch.load(weights, head="drop", num_classes=1), num_classes=5).eval()
ours.decoder.load_state_dict(theirs.decoder.state_dict())
ours.head.load_state_dict(theirs.segmentation_head.state_dict())

pictures = torch.randn(2, 3, 96, 160)
with torch.inference_mode():
    met, wanted = ours(pictures), theirs(pictures)
largest = float(wanted.abs().max())
print(json.dumps({"shape": list(met.shape), "largest": largest, "difference": float((met - wanted).abs().max())}))
