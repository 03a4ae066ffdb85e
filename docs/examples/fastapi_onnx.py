"""FastAPI and ONNX Runtime, logged by the middleware, and swapped by the driver `files`.

MODELS=/models/m uvicorn fastapi_onnx:app      (TTA_STREAM__* as the agent's)
curl localhost:8000/predict -H 'x-request-id: r-1' -H 'content-type: application/json' -d '{"pixels": [[[...]]]}'
"""

import contextlib
import os
import threading
from pathlib import Path

import numpy as np
import onnxruntime as ort
from fastapi import FastAPI, Request
from pydantic import BaseModel

from tta_agent.tap import TapMiddleware, json_fields

MODELS = Path(
    os.environ["MODELS"]
)  # holds N/model.onnx, and the link `current` once a version was swapped in


class Image(BaseModel):
    pixels: list[list[list[float]]]  # [channels, height, width], as the model takes it


def newest(held=(None, None)):
    """The number and the session that answer; opened only where the link leads elsewhere."""
    folder = (MODELS / "current").resolve() if (MODELS / "current").exists() else MODELS / "0"
    if folder.name == str(held[0]):
        return held
    return int(folder.name), ort.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI):
    app.state.held, stop = newest(), threading.Event()

    def follow():
        while not stop.wait(1.0):
            app.state.held = newest(app.state.held)

    threading.Thread(target=follow, daemon=True).start()
    yield
    stop.set()


app = FastAPI(lifespan=lifespan)
app.add_middleware(
    TapMiddleware,
    paths="/predict",
    read=json_fields("pixels", "scores"),
    version=lambda scope: scope["state"]["version"],
)


@app.post("/predict")
def predict(image: Image, request: Request):
    number, session = app.state.held
    request.state.version = number  # of this very answer, whatever is swapped meanwhile
    x = np.asarray([image.pixels], np.float32)
    return {"scores": session.run(None, {session.get_inputs()[0].name: x})[0][0].tolist()}
