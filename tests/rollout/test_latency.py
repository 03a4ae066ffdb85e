"""The time of a candidate's graph: measured where it is another graph, bounded by the noise, never in a replay."""

from __future__ import annotations

import onnx
import pytest

from tests.rollout.test_promoter import World
from tta_agent.models.onnx_export import GraphTemplate
from tta_agent.models.weight_delta import same_structure
from tta_agent.rollout import factory
from tta_agent.testing import tiny_net


def altered(graph: bytes, how: str) -> bytes:
    proto = onnx.ModelProto()
    proto.ParseFromString(graph)
    if how == "node":
        last = proto.graph.output[0].name
        for node in proto.graph.node:
            node.output[:] = ["before" if name == last else name for name in node.output]
        proto.graph.node.append(onnx.helper.make_node("Identity", ["before"], [last], name="one more"))
    elif how == "doc":
        proto.graph.node[0].doc_string = "made elsewhere"
    elif how == "values":
        slot = next(s for s in proto.graph.initializer if s.data_type == onnx.TensorProto.FLOAT)
        slot.raw_data = bytes(len(slot.raw_data))
    elif how == "shape":
        slot = next(s for s in proto.graph.initializer if s.data_type == onnx.TensorProto.FLOAT)
        slot.dims.append(1)
    return proto.SerializeToString()


@pytest.mark.parametrize(
    ("how", "same"), [("values", True), ("doc", True), ("node", False), ("shape", False)]
)
def test_structure_is_nodes_names_and_shapes(template, how, same):
    graph = template.compose(tiny_net("batch"))
    assert altered(graph, how) != graph
    assert same_structure(graph, altered(graph, how)) is same


def test_what_cannot_be_read_has_no_structure_in_common(template):
    assert not same_structure(template.compose(tiny_net("batch")), b"no graph")


@pytest.mark.parametrize(
    ("timed", "other_graph", "ratio"), [(True, False, 1.0), (True, True, 7.0), (False, True, 1.0)]
)
def test_only_another_graph_is_timed_and_none_in_a_replay(tmp_path, monkeypatch, timed, other_graph, ratio):
    template = GraphTemplate(tiny_net("batch"), (1, 8, 8))
    world = World(tmp_path, template)
    world.factory._timed = timed
    monkeypatch.setattr(factory, "_latency_ratio", lambda *_: 7.0)
    if other_graph:
        compose = template.compose
        monkeypatch.setattr(template, "compose", lambda module: altered(compose(module), "node"))
    world.propose()
    assert world.queue.running.facts.latency_ratio == ratio


def test_the_noise_of_serving_against_itself_is_taken_off(monkeypatch):
    """Serving takes 1 s in every second turn and 1.5 s in the others, so a candidate of 1.5 s may be as quick."""
    now_s, turn = [0.0], [0]

    def slow_in_turns(session, x):
        turn[0] += session == "serving"
        now_s[0] += 1.5 if session == "candidate" or turn[0] % 2 else 1.0

    monkeypatch.setattr(factory, "run", slow_in_turns)
    monkeypatch.setattr(factory.time, "perf_counter", lambda: now_s[0])
    assert factory._latency_ratio("candidate", "serving", None) == pytest.approx(1.0)
