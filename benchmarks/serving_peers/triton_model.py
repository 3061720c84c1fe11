"""NVIDIA Triton itself with a Python model, as ``nvidia-pytriton`` brings it along."""

# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy", "nvidia-pytriton"]
#
# [tool.serving]
# name = "Triton"
# package = "nvidia-pytriton"
# paths = { "v2 binary" = "/v2/models/rows/infer", "v2 JSON" = "/v2/models/rows/infer" }
# ///

import os
import socket
import sys
import sysconfig

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig
from scorer import WIDTH, Scorer

MOST_ROWS = 16_384


def serve(port, folder):
    scored = Scorer(folder)

    @batch
    def infer(rows):
        return {"score": scored(rows)[:, None]}

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        grpc_port = probe.getsockname()[1]
    config = TritonConfig(http_address="127.0.0.1", http_port=port, grpc_port=grpc_port, allow_metrics=False)
    with Triton(config=config) as triton:
        triton.bind(
            model_name="rows",
            infer_func=infer,
            inputs=[Tensor(name="rows", dtype=np.float32, shape=(WIDTH,))],
            outputs=[Tensor(name="score", dtype=np.float32, shape=(1,))],
            config=ModelConfig(max_batch_size=MOST_ROWS),
        )
        triton.serve()


if __name__ == "__main__":
    # Triton's own processes run Python too: that of this environment rather than whatever the system has of the same name.
    os.environ["LD_LIBRARY_PATH"] = sysconfig.get_config_var("LIBDIR")
    serve(int(sys.argv[1]), sys.argv[2])
