"""Ray Serve with one replica, which takes raw bodies."""

# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy", "ray[serve]"]
#
# [tool.serving]
# name = "Ray Serve"
# package = "ray"
# paths = { "raw" = "/" }
# ///

import signal
import sys

import numpy as np
import ray
from ray import serve
from scorer import WIDTH, Scorer
from starlette.responses import Response


@serve.deployment(max_ongoing_requests=100, logging_config={"enable_access_log": False})
class Scoring:
    def __init__(self, folder):
        self.scored = Scorer(folder)

    async def __call__(self, request):
        rows = np.frombuffer(await request.body(), np.float32).reshape(-1, WIDTH)
        return Response(self.scored(rows).tobytes())


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])}, logging_config={"enable_access_log": False})
    serve.run(Scoring.bind(sys.argv[2]))
    signal.pause()
