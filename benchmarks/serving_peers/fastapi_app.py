"""FastAPI with pydantic and numpy, as most people write it, and routes of its own for binary rows and for images."""

# /// script
# requires-python = ">=3.11"
# dependencies = ["fastapi", "numpy>=2", "onnxruntime", "pillow", "python-multipart", "uvicorn[standard]"]
#
# [tool.serving]
# name = "FastAPI"
# package = "fastapi"
# paths = { "JSON" = "/score", "raw" = "/raw", "images" = "/images" }
# ///

import io
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import uvicorn
from fastapi import FastAPI, Request, Response, UploadFile
from PIL import Image
from pydantic import BaseModel
from scorer import WIDTH, Scorer

port, folder = int(sys.argv[1]), sys.argv[2]
score_rows, score_features = Scorer(folder), Scorer(folder, "images")
session = ort.InferenceSession(Path(folder, "extractor.onnx"))
app = FastAPI()


class Rows(BaseModel):
    rows: list[list[float]]


class Scores(BaseModel):
    scores: list[float]


@app.post("/score")
async def score(body: Rows) -> Scores:
    return Scores(scores=score_rows(np.array(body.rows)).tolist())


@app.post("/raw")
async def raw(request: Request) -> Response:
    rows = np.frombuffer(await request.body(), np.float32).reshape(-1, WIDTH)
    return Response(score_rows(rows).tobytes(), media_type="application/octet-stream")


@app.post("/images")
def images(images: list[UploadFile]) -> Scores:
    pixels = [Image.open(io.BytesIO(image.file.read())).convert("RGB").resize((224, 224)) for image in images]
    (features,) = session.run(None, {session.get_inputs()[0].name: np.stack([np.asarray(image) for image in pixels])})
    return Scores(scores=score_features(features.reshape(len(features), -1)).tolist())


if __name__ == "__main__":
    uvicorn.run(app, port=port, log_level="warning", access_log=False)
