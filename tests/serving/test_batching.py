"""Dynamic batching of the embedded server: who runs with whom, and that each gets its own answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.parts import serving
from tests.serving.test_admission import Slow
from tests.serving.test_server import Server, serving_tiny
from tta_agent.core.types import Array
from tta_agent.models.ort_sessions import HotSwapSession, Session, open_session
from tta_agent.serving.server import admission
from tta_agent.serving.server.admission import Turns
from tta_agent.serving.server.app import make_app
from tta_agent.serving.server.batching import Batching, DynamicBatcher
from tta_agent.serving.server.engine import Answer, Execution, Task
from tta_agent.stream.codecs import oip

INFER = "/v2/models/tiny/infer"
LONG_S = 60.0  # a test that waited for it would be seen


@pytest.fixture(autouse=True)
def _first_come_first_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "OVERTAKEN_BYTES_PER_S", 1e15)


def graph(nodes: Sequence[Any], kind: int, shape: Sequence[Any], **tensors: Array) -> bytes:
    """An ONNX graph of one input `x`, one output `y` [n, 3]."""
    made = helper.make_graph(
        list(nodes), "g", [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [shape[0], 3])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )  # fmt: skip
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def pooled(first: int | str = "n") -> bytes:
    """Means of three planes of any size."""
    nodes = [helper.make_node("GlobalAveragePool", ["x"], ["p"]), helper.make_node("Flatten", ["p"], ["y"])]
    return graph(nodes, TensorProto.FLOAT, [first, 3, "h", "w"])


TABLE = np.arange(30, dtype=np.float32).reshape(10, 3)


def looked_up() -> bytes:
    """Row of a table with ten rows; ONNX Runtime refuses other indices."""
    nodes = [helper.make_node("Gather", ["t", "x"], ["g"]), helper.make_node("Flatten", ["g"], ["y"])]
    return graph(nodes, TensorProto.INT64, ["n", 1], t=TABLE)


class Watched(Slow):
    """A session that also keeps the sizes that it was asked for."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.sizes: list[int] = []

    def run(self, outputs: Any, feeds: Any) -> Any:
        self.sizes += [len(x) for x in feeds.values()]
        return super().run(outputs, feeds)


@contextmanager
def serving_graph(content: bytes, **options: Any) -> Iterator[tuple[httpx.Client, Watched]]:
    """The server on one graph, whose first run waits until it may."""
    slow = Watched(open_session(content))
    app = make_app("tiny", HotSwapSession(0, slow), lambda number: None, **options)  # type: ignore[arg-type,return-value]
    with serving.running(app) as url, httpx.Client(base_url=url, timeout=30, trust_env=False) as http:
        yield http, slow
        slow.go.set()


def ask(http: httpx.Client, x: Array) -> httpx.Response:
    body, length = oip.encode(oip.Body({"input": x}, parameters={"binary_data_output": True}))
    return http.post(INFER, content=body, headers={oip.HEAD_LENGTH: str(length)})


def logits(response: httpx.Response) -> Array:
    assert response.status_code == 200, response.text
    return oip.decode(response.content, int(response.headers[oip.HEAD_LENGTH])).outputs["logits"]


def asked_together(http: httpx.Client, slow: Slow, xs: Sequence[Array]) -> list[httpx.Response]:
    """Answers to requests that come in this order and wait while another one is computed."""
    with ThreadPoolExecutor(len(xs) + 1) as pool:
        first = pool.submit(ask, http, xs[0][:1])
        assert slow.asked.wait(10)
        rest = []
        for x in xs:
            rest.append(pool.submit(ask, http, x))
            serving.eventually(lambda: http.get("/v2/stats").json()["waiting"] == len(rest))
        slow.go.set()
        assert first.result().status_code == 200
        return [one.result() for one in rest]


def batches(http: httpx.Client) -> dict[int, int]:
    """Executions by their size."""
    [entry] = http.get("/v2/models/tiny/stats").json()["model_stats"]
    return {one["batch_size"]: one["compute_infer"]["count"] for one in entry["batch_stats"]}


def planes(n: int, side: int, seed: int) -> Array:
    return np.random.default_rng(seed).normal(size=(n, 3, side, side)).astype(np.float32)


def means(x: Array) -> Array:
    return np.asarray(x.mean((2, 3)))


def test_requests_that_wait_run_together_and_each_gets_its_rows() -> None:
    xs = [planes(n, 4, n) for n in (1, 3, 2)]
    with serving_graph(pooled(), threads=1, batching=Batching(16)) as (http, slow):
        for x, response in zip(xs, asked_together(http, slow, xs), strict=True):
            np.testing.assert_allclose(logits(response), means(x), atol=1e-5)
        assert batches(http) == {1: 1, 6: 1}
        [entry] = http.get("/v2/models/tiny/stats").json()["model_stats"]
        assert (entry["inference_count"], entry["execution_count"]) == (7, 2)


def test_shapes_are_not_mixed_and_a_batch_has_a_largest_size() -> None:
    sizes = [(3, 4), (2, 5), (2, 4), (2, 5), (2, 4), (9, 4)]
    xs = [planes(n, side, seed) for seed, (n, side) in enumerate(sizes)]
    with serving_graph(pooled(), threads=1, batching=Batching(4)) as (http, slow):
        for x, response in zip(xs, asked_together(http, slow, xs), strict=True):
            np.testing.assert_allclose(logits(response), means(x), atol=1e-5)
        assert batches(http) == {1: 1, 3: 1, 4: 2, 9: 1}


def test_without_batching_each_request_runs_alone() -> None:
    xs = [planes(2, 4, 1), planes(2, 4, 2)]
    with serving_graph(pooled(), threads=1) as (http, slow):
        asked_together(http, slow, xs)
        assert batches(http) == {1: 1, 2: 2}


def test_a_graph_of_one_sample_is_never_given_two() -> None:
    xs = [planes(1, 4, n) for n in range(3)]
    with serving_graph(pooled(1), threads=1, batching=Batching(4)) as (http, slow):
        for x, response in zip(xs, asked_together(http, slow, xs), strict=True):
            np.testing.assert_allclose(logits(response), means(x), atol=1e-5)
        assert batches(http) == {1: 4} and slow.sizes == [1] * 4


def test_a_full_batch_does_not_wait_for_its_delay() -> None:
    with serving_graph(pooled(), threads=2, batching=Batching(2, LONG_S)) as (http, slow):
        slow.go.set()
        with ThreadPoolExecutor(2) as pool:
            xs = [planes(1, 4, n) for n in range(2)]
            for x, response in zip(xs, pool.map(lambda x: ask(http, x), xs), strict=True):
                np.testing.assert_allclose(logits(response), means(x), atol=1e-5)
        assert batches(http) == {2: 1}
        np.testing.assert_allclose(logits(ask(http, planes(5, 4, 9))), means(planes(5, 4, 9)), atol=1e-5)


def test_a_request_that_stays_alone_is_answered_after_the_delay() -> None:
    with serving_graph(pooled(), batching=Batching(8, 0.01)) as (http, slow):
        slow.go.set()
        assert logits(ask(http, planes(1, 4, 0))).shape == (1, 3)


def test_the_error_of_one_request_does_not_fail_those_that_ran_with_it() -> None:
    xs = [np.array([[n]], np.float32) for n in (3, 99, 7)]
    with serving_graph(looked_up(), threads=1, batching=Batching(8)) as (http, slow):
        three, bad, seven = asked_together(http, slow, xs)
        np.testing.assert_array_equal(logits(three), TABLE[[3]])
        np.testing.assert_array_equal(logits(seven), TABLE[[7]])
        assert bad.status_code == 500 and "inference on input [1, 1] failed" in bad.json()["error"]
        [entry] = http.get("/v2/models/tiny/stats").json()["model_stats"]
        assert entry["inference_stats"]["fail"]["count"] == 1
        assert entry["inference_stats"]["success"]["count"] == 3


def test_answers_name_the_version_that_gave_them_while_versions_are_swapped(tmp_path: Path) -> None:
    last, done, wrong, seen = 10, threading.Event(), [], set()

    def client(base_url: httpx.URL, seed: int) -> None:
        x = serving.samples(1 + seed, seed)
        with httpx.Client(base_url=base_url, timeout=30, trust_env=False) as http:
            while not done.is_set():
                response = ask(http, x)
                answer = oip.decode(response.content, None)
                number = int(answer.version or -1)
                seen.add(number)
                if np.abs(answer.outputs["logits"] - serving.answers(x, number)).max() > 1e-2:
                    wrong.append(number)

    with serving_tiny(tmp_path, batching=Batching(16, 0.002)) as server:
        clients = [threading.Thread(target=client, args=(server.http.base_url, seed)) for seed in range(4)]
        for one in clients:
            one.start()
        for number in range(1, last + 1):
            server.graphs.add(number)
            assert server.load(number).status_code == 200
            serving.eventually(lambda number=number: number in seen)
        done.set()
        for one in clients:
            one.join()
        assert not wrong and server.stats()["failed"] == 0
        assert sum(entry["execution_count"] for entry in statistics(server)) < server.stats()["requests"]


def statistics(server: Server) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = server.http.get("/v2/models/stats").json()["model_stats"]
    return entries


SESSION = open_session(pooled())


def task(n: int, value: float) -> Task:
    return Task("t", np.full((n, 1), value, np.float32), 0, SESSION, True, None, False, 0, 0, 0)


async def doubled(tasks: Sequence[Task]) -> list[Execution]:
    answers = [
        Answer(t.id, t.x, t.x * 2, 0, b"", {}, len(t.x), 0, 0, 0, 0)
        if t.x[0, 0] >= 0
        else ValueError("negative")
        for t in tasks
    ]
    return [Execution(0, answers, sum(len(t.x) for t in tasks), 0, 0, 0)]


def test_who_gives_up_is_not_computed_and_the_others_are() -> None:
    async def scenario() -> None:
        turns, begun = Turns(1), []
        batcher = DynamicBatcher(doubled, turns, Batching(8))

        def asked(value: float) -> asyncio.Task[Answer]:
            begin: Callable[[], None] = lambda: begun.append(value)  # noqa: E731
            return asyncio.create_task(batcher.answer(task(1, value), begin))

        async with turns.turn(0):
            tasks = [asked(value) for value in (1.0, 2.0, -3.0, 4.0)]
            await asyncio.sleep(0)
            tasks[1].cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [one.logits[0, 0] for one in (found[0], found[3]) if isinstance(one, Answer)] == [2.0, 8.0]
        assert isinstance(found[1], asyncio.CancelledError) and isinstance(found[2], ValueError)
        assert begun == [1.0, -3.0, 4.0] and turns._free == 1

    asyncio.run(scenario())


def test_a_run_that_breaks_leaves_nobody_waiting() -> None:
    async def broken(tasks: Sequence[Task]) -> list[Execution]:
        raise RuntimeError("no worker")

    async def scenario() -> None:
        batcher = DynamicBatcher(broken, Turns(1), Batching(8))
        calls = [batcher.answer(task(1, n), lambda: None) for n in range(3)]
        found = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 10)
        assert [str(one) for one in found] == ["no worker"] * 3

    asyncio.run(scenario())


@pytest.mark.parametrize("delay_s", [0.0, 0.003])
def test_many_clients_at_once_get_their_own_rows(delay_s: float) -> None:
    def client(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(15):
            x = planes(int(rng.integers(1, 5)), int(rng.integers(2, 4)), int(rng.integers(1 << 30)))
            np.testing.assert_allclose(logits(ask(http, x)), means(x), atol=1e-5)

    with serving_graph(pooled(), batching=Batching(8, delay_s)) as (http, slow):
        slow.go.set()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(client, range(8)))
        assert http.get("/v2/stats").json()["requests"] == 120
