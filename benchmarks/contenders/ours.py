"""An artefact on one of its engines: python ours.py ARTEFACT ENGINE PRECISION THREADS."""

from __future__ import annotations

import sys

from turns import take_turns

from anabranch import open_model

if __name__ == "__main__":
    artefact, engine, precision, threads = sys.argv[1:]
    predictor = open_model(artefact, engine=engine, precision=precision, threads=int(threads))
    take_turns(predictor.predict, dtype="uint8", layout="NHWC", side_px=predictor.card.size_px)
