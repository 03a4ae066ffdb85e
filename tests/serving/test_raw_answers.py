"""A graph with several outputs, one of them probabilities: server, tap, driver and stream use the same one, raw."""

import time
from contextlib import closing

import httpx
import numpy as np
import onnx
import pytest
import torch
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests import worlds
from tests.parts import serving
from tta_agent import testing
from tta_agent.core.errors import GraphError, SwapError
from tta_agent.core.types import Golden, RawRecord, ServerInfo
from tta_agent.models import loader, onnx_export
from tta_agent.models.ort_sessions import HotSwapSession, open_session, raw_answer, run
from tta_agent.models.outputs import ModelOutput
from tta_agent.serving.drivers.oip import OipDriver
from tta_agent.serving.server.app import make_app
from tta_agent.serving.swap import golden
from tta_agent.stream.codecs import oip
from tta_agent.stream.codecs.cloudevents import CloudEvents
from tta_agent.stream.decoder import Decoder
from tta_agent.tap import Tap

X = testing.batch(3).numpy()


def both(z):
    return {"features": z * 2, "p": z.softmax(1)}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A served file with features and probabilities."""
    net = worlds.Answering(testing.tiny_net("batch"), both).eval()
    file = tmp_path_factory.mktemp("served") / "model.onnx"
    onnx.save(onnx_export.export(net, testing.batch(2)), file)
    return file


def log_p():
    with torch.no_grad():
        return testing.tiny_net("batch")(torch.from_numpy(X)).log_softmax(1).numpy()


def test_the_server_answers_and_logs_the_named_output_and_the_agent_reads_logits(path):
    source = loader.load(None, None, None, onnx=path, output="p", device="cpu")
    assert source.output == ModelOutput("p", "probabilities")
    served = open_session(path, output=ModelOutput("p"))
    producer = serving.FakeProducer()
    tap = Tap(producer, CloudEvents(), "t", "m")
    app = make_app("m", HotSwapSession(0, served), lambda number: None, tap=tap)
    with serving.running(app) as url:
        body, length = oip.encode(oip.Body({"input": X}, parameters={"binary_data_output": True}))
        asked = httpx.post(
            f"{url}/v2/models/m/infer", content=body, headers={oip.HEAD_LENGTH: str(length)}, trust_env=False
        )
        answer = oip.decode(asked.content, int(asked.headers[oip.HEAD_LENGTH])).outputs["logits"]
        described = httpx.get(f"{url}/v2/models/m", trust_env=False).json()["outputs"]
        driver = OipDriver(ServerInfo(url, "m", 10.0))
        driver.verify(golden(served, X))
        with pytest.raises(SwapError, match="differs from the golden"):
            driver.verify(golden(open_session(path, output=ModelOutput("features")), X))
        driver.close()
        serving.eventually(lambda: producer.sent)
    assert np.allclose(answer.sum(1), 1, atol=1e-5), "what is served stays as it was"
    assert described == [{"name": "logits", "datatype": "FP32", "shape": [-1, 4]}]
    [(topic, key, value, headers)] = producer.sent
    raw = RawRecord(topic, 0, 0, int(time.time() * 1000), key, value, headers)
    records = Decoder(CloudEvents(), source.shape, source.classes, output=source.output).read([raw])
    assert np.allclose([record.served for record in records], log_p(), atol=1e-4)


def test_sessions_of_one_file_use_the_output_that_they_are_told(path):
    raw = {name: raw_answer(open_session(path, output=ModelOutput(name)), X) for name in ("features", "p")}
    assert np.allclose(
        raw["features"] / 2 - np.log(raw["p"]), (raw["features"] / 2 - np.log(raw["p"]))[:, :1], atol=1e-4
    )
    logits = run(open_session(path, output=ModelOutput("p", "probabilities")), X)
    assert np.allclose(logits, log_p(), atol=1e-4)
    with pytest.raises(GraphError, match="several outputs that may be its answer"):
        open_session(path)


def serving_both(names):
    """A server whose model has several outputs, as others have."""

    async def infer(request: Request) -> Response:
        asked = oip.decode(await request.body(), int(request.headers[oip.HEAD_LENGTH]))
        x = next(iter(asked.inputs.values())).reshape(3, -1)[:, :4].copy()
        tensors = {name: x * (i + 1) for i, name in enumerate(names)}
        body, length = oip.encode(oip.Body({}, tensors, "a", "m", "0"))
        return Response(body, headers={oip.HEAD_LENGTH: str(length)})

    async def about(request: Request) -> Response:
        return JSONResponse({"inputs": [{"name": "input"}]})

    routes = [Route("/v2/models/m/infer", infer, methods=["POST"]), Route("/v2/models/m", about)]
    return serving.running(Starlette(routes=routes))


def test_the_driver_compares_the_named_output_of_a_server_with_several():
    first = X.reshape(3, -1)[:, :4]
    with serving_both(["features", "scores"]) as url:
        with closing(OipDriver(ServerInfo(url, "m", 10.0, "scores"))) as named:
            named.verify(Golden(X, first * 2))
        with (
            closing(OipDriver(ServerInfo(url, "m", 10.0))) as unnamed,
            pytest.raises(SwapError, match="several outputs"),
        ):
            unnamed.verify(Golden(X, first * 2))
    with serving_both(["only"]) as url, closing(OipDriver(ServerInfo(url, "m", 10.0, "scores"))) as driver:
        driver.verify(Golden(X, first))
