"""The answer of a model: which output, which kind, and logits everywhere inside while the raw output is served."""

import logging

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from tests import worlds
from tta_adapters.tent import Tent
from tta_agent import testing
from tta_agent.core.errors import ConfigError, DecodeError
from tta_agent.core.types import Label, RawRecord, Record
from tta_agent.evaluation.paired import BatchPredictions, PairedEvaluation
from tta_agent.models import loader, onnx_export, probing
from tta_agent.models.onnx_export import GraphTemplate
from tta_agent.models.ort_sessions import open_session, raw_answer, run
from tta_agent.models.outputs import ModelOutput, choose, kind_of
from tta_agent.stream.codecs import oip
from tta_agent.stream.codecs.cloudevents import CloudEvents
from tta_agent.stream.codecs.oip_json import OipJson
from tta_agent.stream.decoder import Decoder

CPU, SHAPE = torch.device("cpu"), (1, 8, 8)
NAMED = {"named": "scores"}  # endings of which the output must be named


def net(ending):
    return worlds.Answering(testing.tiny_net("batch"), worlds.ENDINGS[ending]).eval()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Path of a served file by ending."""
    folder = tmp_path_factory.mktemp("served")
    made = {}

    def path(ending):
        if ending not in made:
            made[ending] = folder / f"{len(made)}.onnx"
            onnx.save(onnx_export.export(net(ending), testing.batch(2)), made[ending])
        return made[ending]

    return path


def load(way, ending, files, monkeypatch, output=None, task=None):
    """The model of this ending, by factory or from the file."""
    if way == "onnx":
        return loader.load(None, None, None, onnx=files(ending), output=output, device="cpu", task=task)
    monkeypatch.setattr(worlds, "tiny_batch_net", lambda: net(ending))
    return loader.load(
        None, "tests.worlds:tiny_batch_net", None, shape=SHAPE, output=output, device="cpu", task=task
    )


def expected(ending):
    """Logits up to a constant."""
    with torch.no_grad():
        z = testing.tiny_net("batch")(testing.batch())
    if worlds.KINDS[ending] in ("logits", "probabilities"):
        return z.log_softmax(1).numpy()
    if worlds.KINDS[ending] == "sigmoids":
        return torch.stack((torch.zeros_like(z), z), 1).log_softmax(1).numpy()
    return torch.cat((torch.zeros(len(z), 1), worlds.one_against_rest(z)), 1).log_softmax(1).numpy()


def normalised(logits):
    return torch.as_tensor(logits).log_softmax(1).numpy()


@pytest.mark.parametrize("ending", worlds.KINDS)
@pytest.mark.parametrize("way", ["factory", "onnx"])
def test_every_kind_of_answer_becomes_logits_and_is_served_as_it_was(way, ending, files, monkeypatch, caplog):
    source = load(way, ending, files, monkeypatch, NAMED.get(ending))
    kind = worlds.KINDS[ending]
    told = [text for text in caplog.messages if text.startswith("the model answers")]
    assert (source.output.kind, len(told)) == (kind, kind != "logits")
    assert source.classes == (2 if kind in ("logit", "probability") else testing.CLASSES)
    x = testing.batch()
    with torch.no_grad():
        assert np.allclose(normalised(source.module(x)), expected(ending), atol=1e-4)

    adapter = Tent(source.module)
    adapter.step(x, adapter.forward(x), testing.everyone(x))
    served = adapter.servable()
    template = GraphTemplate(source.module, source.shape, source.graph)
    assert template.patchable
    graph = template.compose(served)
    session = open_session(graph, output=source.output)
    assert np.allclose(run(session, x.numpy()), onnx_export.answers(served, x.numpy()), atol=1e-4)
    assert not np.allclose(normalised(run(session, x.numpy())), expected(ending), atol=1e-4), "nothing learnt"
    before, after = (onnx.load_from_string(g) for g in (template.compose(source.module), graph))
    assert [n.op_type for n in before.graph.node] == [n.op_type for n in after.graph.node]
    assert [o.name for o in before.graph.output] == [o.name for o in after.graph.output]
    assert len(before.graph.output) == (
        2 if ("," in ending and "logits" in ending) or ending == "named" else 1
    )
    raw = raw_answer(session, x.numpy())
    if kind == "probabilities":
        assert np.allclose(raw.reshape(len(x), -1).sum(1), 1, atol=1e-4)
        assert raw.shape[1:] == ((4, 1, 1) if "reshape" in ending else (4,))
    if ending in ("logit", "squeezed logit"):
        assert np.allclose(raw.reshape(-1), run(session, x.numpy())[:, 1], atol=1e-6)


def test_what_is_learnt_through_a_softmax_is_what_is_learnt_on_its_logits():
    one, other = net("logits"), net("softmax, reshape")
    probing.find(other, SHAPE, CPU, None)
    adapters = [Tent(one), Tent(other)]
    for adapter in adapters:
        testing.learn(adapter)
    moved = [dict(adapter.moved()) for adapter in adapters]
    for name, (parameter, source) in moved[0].items():
        assert not torch.equal(parameter, source)
        assert torch.allclose(parameter, moved[1][name][0], atol=1e-5), name


WRITTEN = {
    "softmax": lambda z: z.softmax(1),
    "exp, sum, div": lambda z: (
        (z - z.amax(1, keepdim=True)).exp() / (z - z.amax(1, keepdim=True)).exp().sum(1, True)
    ),
    "softmax, clip, reshape": lambda z: z.softmax(1).clamp(1e-7, 1 - 1e-7).reshape(-1, z.shape[1], 1, 1),
    "temperature, softmax of a map": lambda z: (z[:, :, None, None] / 0.5).softmax(1).flatten(1),
    "exp of log-softmax": lambda z: z.log_softmax(1).exp(),
    "sigmoid, squeezed": lambda z: worlds.one_against_rest(z).sigmoid()[:, 0],
}


@pytest.mark.parametrize("ending", WRITTEN)
def test_a_file_that_answers_probabilities_is_learnt_on_the_logits_before_them(ending, tmp_path, caplog):
    inner = testing.tiny_net("batch")
    with torch.no_grad():
        inner[-1].weight.mul_(400)  # probabilities saturate, and the gradient through their logarithm is 0
    onnx.save(
        onnx_export.export(worlds.Answering(inner, WRITTEN[ending]).eval(), testing.batch(2)),
        tmp_path / "m.onnx",
    )
    with caplog.at_level(logging.INFO):
        source = loader.load(None, None, None, onnx=tmp_path / "m.onnx", device="cpu")
    assert any("logits before" in text for text in caplog.messages)
    x = testing.batch()
    with torch.no_grad():
        logits, raw = source.module(x), probing.raw(source.module)(x)
    assert torch.isfinite(logits).all() and float(logits.min()) < -70  # log 1e-30 is -69
    assert torch.allclose(logits.exp()[:, -1], raw.reshape(len(x), -1)[:, -1], atol=1e-4)
    assert np.allclose(raw.numpy(), raw_answer(open_session(tmp_path / "m.onnx"), x.numpy()), atol=1e-4)


def test_the_only_output_of_the_form_is_taken_and_said(files, monkeypatch, caplog):
    with caplog.at_level(logging.INFO):
        by_factory = load("factory", "features, logits", files, monkeypatch)
        from_file = load("onnx", "features, logits", files, monkeypatch)
    assert by_factory.output.name == from_file.output.name == "output_1"
    told = [text for text in caplog.messages if "is the answer" in text]
    assert len(told) == 2 and all("output_0 [" in text and "output_1 [" in text for text in told)


@pytest.mark.parametrize("way", ["factory", "onnx"])
def test_several_outputs_that_may_be_the_answer_must_be_named(way, files, monkeypatch):
    with pytest.raises(ConfigError) as refused:
        load(way, "named", files, monkeypatch)
    text = str(refused.value)
    assert "features [" in text and "scores [" in text and "TTA_MODEL__OUTPUT=features or scores" in text
    assert len(text.splitlines()) <= 3
    assert load(way, "named", files, monkeypatch, "scores").output == ModelOutput("scores")
    with pytest.raises(ConfigError, match=r"TTA_MODEL__OUTPUT=score: .*did you mean scores\?"):
        load(way, "named", files, monkeypatch, "score")
    with pytest.raises(ConfigError, match=r"TTA_MODEL__OUTPUT=output_0: .*expected float logits \[N, C\]"):
        load(way, "features, logits", files, monkeypatch, "output_0")


@pytest.mark.parametrize("way", ["factory", "onnx"])
def test_a_task_is_named_where_the_answers_leave_it_open(way, files, monkeypatch):
    def task_of(ending, task=None):
        source = load(way, ending, files, monkeypatch, task=task)
        with torch.no_grad():
            logits = source.module(testing.batch())
        return source.output.task, source.output.kind, source.classes, tuple(logits.shape[1:])

    assert task_of("sigmoids") == ("multilabel", "sigmoids", 4, (2, 4))
    assert task_of("sigmoids", "multiclass") == ("multiclass", "odds", 4, (4,))
    assert task_of("logits", "multilabel") == ("multilabel", "scores", 4, (2, 4))
    assert task_of("logit", "multilabel") == ("multilabel", "scores", 1, (2, 1))
    assert task_of("softmax", "multiclass") == task_of("softmax")
    for ending, task in (("logit", "multiclass"), ("logits", "binary"), ("softmax", "multilabel")):
        with pytest.raises(ConfigError, match=f"TTA_MODEL__TASK={task}: the model answers [14] ") as refused:
            task_of(ending, task)
        assert len(str(refused.value).splitlines()) <= 3


def test_a_wrong_number_of_classes_is_refused_whatever_the_way(files, monkeypatch):
    monkeypatch.setattr(worlds, "tiny_batch_net", lambda: net("logit"))
    with pytest.raises(ConfigError, match=r"TTA_MODEL__CLASSES=4: .* answers with 2 classes"):
        loader.load(None, "tests.worlds:tiny_batch_net", None, shape=SHAPE, classes=4)
    with pytest.raises(ConfigError, match=r"TTA_MODEL__CLASSES=9: .* answers with 4 classes"):
        loader.load(None, None, None, onnx=files("softmax"), classes=9)


class Near(nn.Module):
    """One logit that lies in 0 .. 1 by chance."""

    def __init__(self):
        super().__init__()
        self.net = testing.tiny_net("group")
        with torch.no_grad():
            self.net[-1].weight.mul_(0.02)
            self.net[-1].bias.fill_(0.4)

    def forward(self, x):
        return self.net(x)[:, :1]


def test_a_logit_near_one_half_is_not_taken_for_a_probability():
    module = Near().eval()
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((7, *SHAPE), dtype=np.float32))
    with torch.no_grad():
        assert ((module(x) > 0) & (module(x) < 1)).all()
    assert probing.find(module, SHAPE, CPU, None)[0].kind == "logit"


def test_kinds_by_values():
    many = np.full((4, 3), 1 / 3)
    assert kind_of(many, lambda: ()) == "probabilities"
    assert kind_of(many.astype(np.float16), lambda: ()) == "probabilities"
    assert kind_of(-many, lambda: ()) == "logits"
    assert kind_of(np.full((4, 3), np.nan), lambda: ()) == "logits"
    assert kind_of(many / 2, lambda: [many * 9]) == "logits"
    assert kind_of(many[:, :1], lambda: [np.full((4, 1), np.nan)]) == "probability"
    assert kind_of(many / 2, lambda: [many / 2]) == "sigmoids"


@pytest.mark.parametrize(
    ("shapes", "name"),
    [
        ({"y": ["n", 4]}, "y"),
        ({"y": ["n"]}, "y"),
        ({"y": []}, "y"),
        ({"map": ["n", 4, "h", "w"], "y": ["n", 4, 1, 1]}, "y"),
        ({"loss": ["n"], "y": ["n", 1]}, "y"),
        ({"empty": ["n", 0], "y": ["n", 1]}, "y"),
    ],
)
def test_the_output_of_the_form(shapes, name):
    assert choose(shapes, None, "it") == name


def test_logits_of_both_libraries_agree_and_stay_finite():
    raw = np.array([[0.0, 1.0], [1.0, 0.0], [0.25, 0.75]], np.float32)
    for kind, values in (("probabilities", raw), ("probability", raw[:, 1]), ("logit", raw[:, 1:])):
        output = ModelOutput(None, kind)
        found = output.logits(values)
        assert found.shape == (3, 2) and found.dtype == np.float32
        assert np.isfinite(found).all()
        tensor = torch.from_numpy(values.copy()).requires_grad_()
        assert np.allclose(output.logits(tensor).detach().numpy(), found, atol=1e-6)
        output.logits(tensor).log_softmax(1).exp().pow(2).sum().backward()
        assert tensor.grad is not None and torch.isfinite(tensor.grad).all()
    assert np.allclose(normalised(ModelOutput(None, "probability").logits(raw[2:, 1])), np.log(raw[2:]))


def answered(logits, id="a", outputs=None, x=None):
    """A record of two samples, or of as many as there are answers."""
    x = np.zeros((len(logits), 1, 2, 2), np.float32) if x is None else x
    key, value, headers = CloudEvents().encode_inference(id, x, logits, 0, source="s", model="m", time_s=1.0)
    return RawRecord("t", 0, 0, 0, key, value, headers)


@pytest.mark.parametrize(
    ("kind", "raw", "logits"),
    [
        ("logit", [[2.0]], [0, 2]),
        ("logit", [2.0], [0, 2]),
        ("probability", [[0.25]], np.log([0.75, 0.25])),
        ("probabilities", [[0.25, 0.75]], np.log([0.25, 0.75])),
        ("probabilities", [[[[0.25]], [[0.75]]]], np.log([0.25, 0.75])),
        ("logits", [[1.0, 2.0]], [1, 2]),
    ],
)
def test_served_answers_of_the_stream_become_logits(kind, raw, logits):
    decoder = Decoder(CloudEvents(), (1, 2, 2), 2, output=ModelOutput(None, kind))
    [record] = decoder.read([answered(np.array(raw, np.float32))])
    assert isinstance(record, Record)
    assert np.allclose(record.served, logits)
    [unknown] = Decoder(CloudEvents(), None, None).read([answered(np.array(raw, np.float32))])
    assert np.allclose(unknown.served, np.ravel(raw)), "a recording keeps what was served"


@pytest.mark.parametrize(
    ("kind", "raw"), [("logit", [[1.0, 2.0]]), ("logits", [[1.0]]), ("logits", [[1.0, 2, 3]])]
)
def test_an_answer_of_another_width_is_a_dead_letter(kind, raw):
    decoder = Decoder(CloudEvents(), (1, 2, 2), 2, output=ModelOutput(None, kind))
    assert decoder.read([answered(np.array(raw, np.float32))]) == []
    assert decoder.refused == {"output_classes": 1}


def test_labels_of_one_logit_are_0_and_1():
    decoder = Decoder(CloudEvents(), (1, 2, 2), 2, output=ModelOutput(None, "logit"))
    raws = [RawRecord("t", 0, 0, 0, *CloudEvents().encode_label("a", label, 1.0)) for label in (0, 1, 2)]
    assert [item.label for item in decoder.read(raws)] == [0, 1]
    assert decoder.refused == {"label_range": 1}


def test_a_record_with_several_outputs_is_read_by_name_or_form():
    x, y = np.zeros((1, 1, 2, 2), np.float32), np.array([[1.0, 2.0]], np.float32)
    features = {"map": np.zeros((1, 3, 2, 2), np.float32), "scores": y}
    alike = {"features": y + 5, "scores": y}
    for codec in (CloudEvents, OipJson):
        for outputs, name in ((features, None), (features, "scores"), (alike, "scores")):
            [record] = codec(output=name).decode(_both(codec, x, outputs), (1, 2, 2), 2)
            assert np.array_equal(record.served, y[0])
        with pytest.raises(DecodeError, match="several outputs") as refused:
            codec().decode(_both(codec, x, alike), (1, 2, 2), 2)
        assert refused.value.reason == "output_count"
        [single] = codec(output="scores").decode(_both(codec, x, {"logits": y}), (1, 2, 2), 2)
        assert np.array_equal(single.served, y[0]), "a single output needs no name"


def _both(codec, x, outputs):
    body, length = oip.encode(oip.Body({"input": x}, outputs, "a"), binary=codec is CloudEvents)
    template = answered(np.zeros((1, 2), np.float32))
    headers = tuple(
        (name, str(length).encode() if name == "ce_inferenceheadercontentlength" else value)
        for name, value in template.headers
    )
    return RawRecord("t", 0, 0, 0, b"a", body, headers if codec is CloudEvents else ())


@pytest.mark.parametrize("ending", ["logit", "squeezed logit", "sigmoid"])
def test_a_paired_evaluation_of_one_value_names_classes_0_and_1(ending):
    source, other = net(ending), net(ending)
    with torch.no_grad():
        other.net[-1].weight.neg_()
        other.net[-1].bias.neg_()
    output, _ = probing.find(source, SHAPE, CPU, None)
    template = GraphTemplate(source, SHAPE)
    graphs = {"serving": source, "candidate": other}
    sessions = {
        role: open_session(template.compose(module), output=output) for role, module in graphs.items()
    }
    x = testing.batch(32).numpy()
    truth = (raw_answer(sessions["serving"], x).reshape(-1) > (0.5 if ending == "sigmoid" else 0)).astype(int)
    records = [Record(f"r{i}", 1.0, sample, None, 0, f"r{i}", None, "t", 0, i) for i, sample in enumerate(x)]
    pairs = PairedEvaluation(sessions, {}, 100, 0.0)
    fresh = pairs.on_records(BatchPredictions(records))
    assert [first for _, first, _ in fresh] == truth.tolist()
    assert {second for _, _, second in fresh} <= {0, 1}
    apart = sum(first != second for _, first, second in fresh)
    assert apart > 0
    for i, label in enumerate(truth):
        pairs.on_label(Label(f"r{i}", int(label), 2.0))
    assert (pairs.labels, pairs.losses, pairs.wins) == (32, apart, 0)
