"""Seldon MLServer with a custom runtime, in one process, which is faster here than its own default of a second one."""

# /// script
# requires-python = ">=3.11"
# dependencies = ["mlserver>=1.7", "numpy"]
#
# [tool.serving]
# name = "MLServer"
# package = "mlserver"
# paths = { "v2 JSON" = "/v2/models/rows/infer" }
# ///

import asyncio
import sys

from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse
from scorer import Scorer


class Scoring(MLModel):
    async def load(self):
        self.scored = Scorer(self.settings.parameters.uri)
        return True

    async def predict(self, payload):
        scores = self.scored(NumpyCodec.decode_input(payload.inputs[0]))
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("score", scores)])


async def serve(port, folder):
    settings = Settings(
        debug=False, host="127.0.0.1", http_port=port, grpc_port=0, metrics_endpoint=None, parallel_workers=0, load_models_at_startup=False
    )
    model = ModelSettings(name="rows", implementation=Scoring, parameters={"uri": folder})
    await MLServer(settings).start([model])


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), sys.argv[2]))
