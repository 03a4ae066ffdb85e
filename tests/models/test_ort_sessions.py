"""Sessions and the pair of them."""

import gc
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.parts import serving
from tta_agent.core.errors import GraphError, SwapError
from tta_agent.models import heap
from tta_agent.models.ort_sessions import HotSwapSession, Session, open_session, open_version, run, shapes


def session(number: int) -> Session:
    return open_session(serving.graph_bytes(number))


def state(pair: HotSwapSession) -> tuple[tuple[int, Session], int | None, int | None]:
    return pair.current(), pair.standby, pair.previous


def test_a_session_answers_from_a_path_and_from_bytes(tmp_path: Path) -> None:
    path = tmp_path / "g.onnx"
    path.write_bytes(serving.graph_bytes(2))
    x = serving.samples(5)
    for graph in (path, path.read_bytes()):
        opened = open_session(graph)
        answer = run(opened, x.astype(np.float64))
        assert answer.dtype == np.float32
        np.testing.assert_allclose(answer, serving.answers(x, 2), atol=1e-4)
        assert shapes(opened) == (serving.SHAPE, serving.CLASSES)


def test_answers_do_not_depend_on_batch_mates() -> None:
    x = serving.samples(6)
    opened = session(0)
    alone = np.concatenate([run(opened, one[None]) for one in x])
    np.testing.assert_allclose(run(opened, x), alone, atol=1e-5)


@pytest.mark.parametrize("content", [b"", b"junk"])
def test_a_damaged_graph_is_a_graph_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(GraphError, match=r"broken\.onnx cannot be loaded on cpu"):
        open_session(path)
    with pytest.raises(GraphError, match="cannot be loaded"):
        open_session(path.with_name("missing.onnx"))


@pytest.mark.parametrize("device", ["tpu", "cuda:x", "cpu:1"])
def test_an_unknown_device_is_named(device: str) -> None:
    with pytest.raises(GraphError, match="valid: cpu, cuda, cuda:N"):
        open_session(serving.graph_bytes(0), device=device)


def test_a_graph_of_another_form_is_refused() -> None:
    value = helper.make_tensor_value_info
    ids = value("ids", TensorProto.BOOL, ["n", 4])
    out = value("out", TensorProto.BOOL, ["n", 4])
    graph = helper.make_graph([helper.make_node("Identity", ["ids"], ["out"])], "g", [ids], [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    with pytest.raises(GraphError, match=r"takes ids tensor\(bool\); expected one float input"):
        open_session(model.SerializeToString())


def test_samples_of_another_shape_are_a_graph_error() -> None:
    with pytest.raises(GraphError, match=r"inference on input \[2, 5\] failed"):
        run(session(0), np.zeros((2, 5), np.float32))


def test_a_version_is_opened_only_if_its_file_is_the_one(tmp_path: Path) -> None:
    graphs = serving.GraphFolder(tmp_path)
    version = graphs.add(1)
    assert shapes(open_version(version, open_session))[1] == serving.CLASSES
    version.path.write_bytes(version.path.read_bytes() + b"\0")
    with pytest.raises(GraphError, match=r"version 1: 1\.onnx has sha256"):
        open_version(version, open_session)
    version.path.unlink()
    with pytest.raises(GraphError, match="version 1 cannot be read"):
        open_version(version, open_session)


def test_a_switch_swaps_the_two_and_can_be_taken_back_once() -> None:
    zero, one = session(0), session(1)
    pair = HotSwapSession(0, zero)
    assert state(pair) == ((0, zero), None, None)
    pair.stage(1, one)
    assert state(pair) == ((0, zero), 1, None)
    pair.switch(1)
    assert state(pair) == ((1, one), 0, 0)
    pair.switch(1)
    assert pair.previous == 0, "a switch to the live version changes nothing"
    pair.switch(0)
    assert state(pair) == ((0, zero), 1, None)


def test_what_does_not_stand_by_cannot_become_live() -> None:
    pair = HotSwapSession(0, session(0))
    with pytest.raises(SwapError, match="version 1 does not stand by"):
        pair.switch(1)
    with pytest.raises(SwapError, match="version 0 is live already"):
        pair.stage(0, session(0))
    assert pair.get(0) is pair.current()[1]
    assert pair.get(1) is None


def test_the_old_session_goes_when_its_last_call_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    trimmed = threading.Event()
    monkeypatch.setattr(heap, "_trim", trimmed.set)
    pair = HotSwapSession(0, session(0))
    _, held = pair.current()  # a request that is under way
    gone = weakref.ref(held)
    pair.stage(1, session(1))
    pair.switch(1)
    pair.stage(2, session(2))  # takes the place of version 0
    gc.collect()
    assert gone() is not None
    np.testing.assert_allclose(
        run(held, serving.samples(1)), serving.answers(serving.samples(1), 0), atol=1e-4
    )
    trimmed.clear()
    del held
    assert gone() is None
    assert trimmed.wait(10)


def test_trimming_is_harmless_where_there_is_no_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    heap._trim()
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    heap._trim()


def test_readers_do_not_wait_for_writers() -> None:
    pair = HotSwapSession(0, session(0))
    with pair._writing:
        reader = threading.Thread(target=pair.current, daemon=True)
        reader.start()
        reader.join(10)
        assert not reader.is_alive()


def test_every_reader_sees_a_version_with_its_own_session() -> None:
    x = serving.samples(1)
    pair = HotSwapSession(0, session(0))
    done = threading.Event()
    wrong: list[int] = []
    seen: set[int] = set()

    def read() -> None:
        while not done.is_set():
            number, live = pair.current()
            seen.add(number)
            if abs(run(live, x) - serving.answers(x, number)).max() > 1e-2:
                wrong.append(number)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(1, 30):
        pair.stage(number, session(number))
        pair.switch(number)
    serving.eventually(lambda: 29 in seen)
    done.set()
    for reader in readers:
        reader.join()
    assert not wrong
