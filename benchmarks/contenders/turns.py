"""A contender waits for its turn: a line of JSON {"batch": 4, "times": 3} in, the seconds of each time out.

This runs in the publisher's own environment, which knows nothing of this project: numpy is enough.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable

import numpy as np


def take_turns(answer: Callable[[np.ndarray], object], *, dtype: str, layout: str, side_px: int = 224) -> None:
    """Call `answer` with a batch of pictures, as often as asked, until nobody asks any more.

    layout: NHWC or NCHW. The same batch is asked about again and again, and each size once before it is timed.
    """
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever libraries print must not come between the replies
    batches: dict[int, np.ndarray] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        count = asked["batch"]
        if count not in batches:
            shape = (count, side_px, side_px, 3) if layout == "NHWC" else (count, 3, side_px, side_px)
            drawn = np.random.default_rng(0)
            pixels = drawn.integers(0, 256, shape) if dtype == "uint8" else drawn.standard_normal(shape)
            batches[count] = np.ascontiguousarray(pixels.astype(dtype))
            answer(batches[count])
        seconds = []
        for _ in range(asked["times"]):
            started = time.perf_counter()
            answer(batches[count])
            seconds.append(time.perf_counter() - started)
        print(json.dumps(seconds), file=replies, flush=True)
