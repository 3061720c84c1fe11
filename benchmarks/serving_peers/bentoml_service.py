"""BentoML with one worker, which its own command starts."""

# /// script
# requires-python = ">=3.11"
# dependencies = ["bentoml", "numpy"]
#
# [tool.serving]
# name = "BentoML"
# package = "bentoml"
# paths = { "JSON" = "/score" }
# ///

import os
import sys
from pathlib import Path

import bentoml
import numpy as np
from scorer import Scorer


@bentoml.service(workers=1, logging={"access": {"enabled": False}})
class Scoring:
    def __init__(self):
        self.scored = Scorer(os.environ["SCORER_FOLDER"])

    @bentoml.api
    def score(self, rows: np.ndarray) -> dict:
        return {"scores": self.scored(rows).tolist()}


if __name__ == "__main__":
    here = Path(__file__)
    command = [sys.executable, "-m", "bentoml", "serve", f"{here.stem}:Scoring", "--working-dir", str(here.parent)]
    os.environ["SCORER_FOLDER"] = sys.argv[2]
    os.execv(sys.executable, [*command, "--host", "127.0.0.1", "--port", sys.argv[1]])
