"""LitServe with one worker."""

# /// script
# requires-python = ">=3.11"
# dependencies = ["litserve", "numpy"]
#
# [tool.serving]
# name = "LitServe"
# package = "litserve"
# paths = { "JSON" = "/predict" }
# ///

import sys

import litserve
import numpy as np
from scorer import Scorer


class Scoring(litserve.LitAPI):
    def setup(self, device):
        self.scored = Scorer(sys.argv[2])

    def decode_request(self, request):
        return np.array(request["rows"])

    def predict(self, rows):
        return self.scored(rows)

    def encode_response(self, scores):
        return {"scores": scores.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Scoring(), accelerator="cpu", workers_per_device=1, timeout=600)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), log_level="error", generate_client_file=False)
