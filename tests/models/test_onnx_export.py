"""Export, name map, patch and parity, on real ONNX Runtime."""

import numpy as np
import pytest
import timm
import torch

from tta_adapters.tent import Tent
from tta_agent import testing
from tta_agent.core.errors import GraphError
from tta_agent.models import loader, onnx_export
from tta_agent.models.ort_sessions import open_session, run

KINDS = ("batch", "group", "layer")


@pytest.mark.parametrize("kind", KINDS)
def test_a_candidate_is_patched_by_name_and_equals_torch(kind):
    model = testing.tiny_net(kind)
    master = onnx_export.GraphTemplate(model, (1, 8, 8))
    assert master.patchable
    adapter = Tent(model, lr=0.05)
    testing.learn(adapter)
    served = adapter.servable()
    session = open_session(master.compose(served))
    x = testing.batch(7).numpy()
    assert np.allclose(run(session, x), onnx_export.answers(served, x), atol=1e-5)
    assert not np.allclose(run(session, x), onnx_export.answers(model, x), atol=1e-3)
    alone = np.concatenate([run(session, x[i : i + 1]) for i in range(7)])
    assert np.allclose(run(session, x), alone, atol=1e-5)


def test_composing_one_leaves_no_trace_in_the_next():
    model = testing.tiny_net("batch")
    master = onnx_export.GraphTemplate(model, (1, 8, 8))
    first = master.compose(model)
    adapter = Tent(model)
    testing.learn(adapter)
    assert master.compose(adapter.servable()) != first
    assert master.compose(model) == first


def test_normalisation_stays_unfused_under_torch_names():
    model = testing.tiny_net("batch")
    proto = onnx_export.export(model, testing.batch(2))
    assert [node.op_type for node in proto.graph.node].count("BatchNormalization") == 2
    assert {item.name for item in proto.graph.initializer} >= set(onnx_export.floats(model))


def test_the_graph_tells_nothing_of_where_it_was_made():
    proto = onnx_export.export(testing.tiny_net("batch"), testing.batch(2))
    assert b".py" not in proto.SerializeToString()


class Tied(torch.nn.Module):
    """One tensor under two names: the map by name cannot be made."""

    def __init__(self):
        super().__init__()
        self.one = torch.nn.Linear(4, 4)
        self.two = torch.nn.Linear(4, 4)
        self.two.weight = self.one.weight

    def forward(self, x):
        return self.two(torch.relu(self.one(x.flatten(1))))


def test_where_names_do_not_map_each_candidate_is_exported_anew(caplog):
    model = Tied().eval()
    master = onnx_export.GraphTemplate(model, (1, 2, 2))
    assert not master.patchable
    assert "exported anew" in caplog.text
    changed = Tied().eval()
    x = np.ones((3, 1, 2, 2), np.float32)
    assert np.allclose(
        run(open_session(master.compose(changed)), x), onnx_export.answers(changed, x), atol=1e-5
    )


def test_what_cannot_be_traced_is_a_clear_error():
    class Untraceable(torch.nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :4] if x.sum() > 0 else x.flatten(1)[:, 4:8]

    with pytest.raises(GraphError, match="cannot be exported"):
        onnx_export.export(Untraceable(), testing.batch(2))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "convnext_atto"])
def test_timm_models_keep_every_name(name):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5).eval()
    master = onnx_export.GraphTemplate(
        model, (3, 64, 64) if name != "vit_tiny_patch16_224" else (3, 224, 224)
    )
    assert master.patchable


def test_versions_of_a_served_file_keep_its_own_names(tmp_path):
    torch.manual_seed(0)
    model = testing.tiny_net("batch")
    path = tmp_path / "served.onnx"
    program = torch.onnx.export(
        model, (torch.zeros(2, 1, 8, 8),), dynamo=True, optimize=False, verbose=False,
        input_names=["pixels"], output_names=["scores"], dynamic_shapes=({0: torch.export.Dim("batch")},),
    )  # fmt: skip
    program.save(path)
    source = loader.load(None, None, None, onnx=path, device="cpu")
    master = onnx_export.GraphTemplate(source.module, source.shape, source.graph)
    adapter = Tent(source.module)
    testing.learn(adapter)
    served = adapter.servable()
    session = open_session(master.compose(served))
    assert master.patchable
    assert [item.name for item in (*session.get_inputs(), *session.get_outputs())] == ["pixels", "scores"]
    x = testing.batch(5, seed=4)
    assert np.allclose(run(session, x.numpy()), served(x).numpy(), atol=1e-5)
