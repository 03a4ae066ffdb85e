"""Signals, text, one logit and label sets: each runs the whole loop, and what needs images says so at start."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from tests import task_nets
from tests.pipeline.test_agent import Running, World, until
from tests.task_nets import SUBJECTS, Subject
from tta_agent.assembly import build
from tta_agent.core import plugins, task
from tta_agent.core.errors import ConfigError
from tta_agent.core.evidence import Evidence, LabelledPair
from tta_agent.evaluation.anchor_set import AnchorSet
from tta_agent.evaluation.label_guard import LabelGuard
from tta_agent.labels.store import read_counts
from tta_agent.models import onnx_export
from tta_agent.models.inspection import inspect
from tta_agent.models.ort_sessions import open_session, raw_answer, run
from tta_agent.models.outputs import ModelOutput
from tta_agent.settings import env
from tta_agent.stream.codecs.cloudevents import CloudEvents
from tta_agent.telemetry.facade import Telemetry

AT_ONCE = 64


class TaskWorld(World):
    """A world of another kind of net: shifted inputs, answered by what is live, each with its label."""

    def __init__(self, path, monkeypatch, subject: Subject) -> None:
        monkeypatch.setattr(task_nets, "chosen", subject.make, raising=False)
        super().__init__(path, monkeypatch, **of(subject))
        self.subject = subject

    def send(self, n: int, label_rate: float = 1.0) -> None:
        x, truths = self.subject.draw(n, 1000 + self.sent, True)
        for i, (sample, truth) in enumerate(zip(x, truths, strict=True), self.sent):
            topic, labels_topic = self.settings.stream.topic, self.settings.stream.labels_topic
            name, now_s = f"{topic}-{i}", time.time()
            number, session = self.pair.current()
            raw = raw_answer(session, sample[None])
            about = {"source": "t", "model": "m", "time_s": now_s}
            self.producer.send(
                topic, *CloudEvents().encode_inference(name, sample[None], raw, number, **about)
            )
            told = frozenset(truth) if isinstance(truth, tuple) else truth
            self.producer.send(labels_topic, *CloudEvents().encode_label(name, told, now_s))
        self.sent += n
        self.producer.flush()

    def errors(self, number: int) -> float:
        """Errors of a version for each of 2,000 shifted inputs, the same ones for every version."""
        x, truths = self.subject.draw(2000, 5, True)
        given = task.answers(run(open_session(self.registry.get(number).path, output=self.source.output), x))
        return float(np.mean([task.errors(*pair) for pair in zip(given, truths, strict=True)]))


def of(subject: Subject) -> dict[str, str]:
    return {
        "TTA_MODEL__FACTORY": "tests.task_nets:chosen",
        "TTA_MODEL__WEIGHTS": "",
        "TTA_MODEL__INPUT_SHAPE": str(list(subject.shape)),
        "TTA_ADAPT__METHOD": subject.method,
        "TTA_ADAPT__OPTIONS": subject.options,
        "TTA_ADAPT__BATCH_SIZE": "32",
    }


@pytest.mark.parametrize("name", SUBJECTS)
def test_the_whole_loop_of_a_task(name, tmp_path, monkeypatch):
    subject = SUBJECTS[name]
    world = TaskWorld(tmp_path, monkeypatch, subject)
    assert f"task {subject.task} of " in build.describe(world.settings, world.source)
    agent = world.agent()
    with Running(agent):
        until(lambda: world.pair.current()[0] > 0, lambda: (world.send(AT_ONCE), time.sleep(0.1)))
        world.send(300)
    swap = world.events(agent, "swap")[0]
    assert world.registry.get(swap["version"]).proof == "certified"
    assert world.errors(swap["version"]) < world.errors(0) - 0.03
    counts, _ = read_counts(world.settings.store.path / "labels.db")
    assert 0 < counts["right"] < counts["matched"]
    is_served_as_it_was(world, swap["version"], subject)


def is_served_as_it_was(world, number, subject):
    graphs = [onnx.load(world.registry.get(n).path) for n in (0, number)]
    assert [n.op_type for n in graphs[0].graph.node] == [n.op_type for n in graphs[1].graph.node]
    x = subject.draw(50, 7, False)[0]
    raw = raw_answer(open_session(world.registry.get(number).path), x)
    logits = run(open_session(world.registry.get(number).path, output=world.source.output), x)
    if subject.task == "binary":
        assert raw.shape == (50, 1) and np.allclose(logits[:, 1], raw[:, 0], atol=1e-6)
    if subject.task == "multilabel":
        assert raw.shape == (50, 4) and raw.min() >= 0 and raw.max() <= 1
        assert graphs[0].graph.node[-1].op_type == "Sigmoid" and logits.shape == (50, 2, 4)
    of_ids = graphs[1].graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.INT64
    assert of_ids == (subject is SUBJECTS["text"])


CANNOT = {
    (
        "signal",
        "cotta",
        None,
    ): r"METHOD=cotta: needs images .*\[2, 32\];\n.*fit it: adamixbn, eata, norm, sar, tent$",
    ("signal", "roid", None): "METHOD=roid: needs images",
    ("signal", "deyo", None): "METHOD=deyo: its selector 'deyo' needs images",
    ("signal", "tent", '["plpd"]'): "TTA_SELECT__SELECTORS: 'plpd' needs images",
    ("text", "tesla", None): r"METHOD=tesla: needs images .*\[12\];\n.*fit it: eata, sar, tent$",
    ("label sets", "rmt", None): "METHOD=rmt: needs",
}


@pytest.mark.parametrize(("name", "method", "selectors"), CANNOT)
def test_what_needs_images_says_so_when_it_is_chosen(name, method, selectors, tmp_path, monkeypatch):
    settings, source = loaded(name, method, selectors, tmp_path, monkeypatch)
    with pytest.raises(ConfigError, match=CANNOT[name, method, selectors]) as refused:
        build.make_adaptation(settings, source, Telemetry.off())
    assert len(str(refused.value).splitlines()) <= 3


@pytest.mark.parametrize("name", ["text", "label sets"])
def test_a_file_of_the_task_is_checked_and_adapts(name, tmp_path):
    subject = SUBJECTS[name]
    example = torch.from_numpy(subject.draw(2, 0, False)[0])
    example = example.long() if name == "text" else example
    onnx.save(onnx_export.export(subject.make(), example), tmp_path / "m.onnx")
    found = inspect(tmp_path / "m.onnx", ("tent", "deyo", "cotta"))
    assert found.answer["task"] == subject.task and found.adapters["tent"] is None
    assert found.adapters["cotta"].startswith("adapter 'cotta' needs images")
    assert found.adapters["deyo"].startswith("adapter 'deyo' selects by 'deyo', which needs images")
    assert max(found.parity.values()) < 1e-5


def test_an_option_may_do_without_images(tmp_path, monkeypatch):
    settings, source = loaded("signal", "roid", None, tmp_path, monkeypatch, '{"roid": {"consistency": 0}}')
    adaptation = build.make_adaptation(settings, source, Telemetry.off())
    x, _ = SUBJECTS["signal"].draw(64, 3, True)
    assert adaptation.round(x).report.used


def loaded(name, method, selectors, tmp_path, monkeypatch, options="{}"):
    subject = SUBJECTS[name]
    given = {**of(subject), "TTA_ADAPT__METHOD": method, "TTA_ADAPT__OPTIONS": options}
    given |= {"TTA_STORE__PATH": str(tmp_path)} | ({"TTA_SELECT__SELECTORS": selectors} if selectors else {})
    monkeypatch.setattr(task_nets, "chosen", subject.make, raising=False)
    for key, value in given.items():
        monkeypatch.setenv(key, value)
    settings = env.load()
    return settings, build.load_source(settings)


def test_every_gate_judges_label_sets(tmp_path):
    random = np.random.default_rng(0)
    odds = 3 * random.standard_normal((400, 4)).astype(np.float32)
    serving, candidate = (np.stack([np.zeros_like(z), z], 1) for z in (odds + 1, odds * 1.1))
    truths = [tuple(np.flatnonzero(row > 0).tolist()) for row in odds]
    pairs = zip(truths, task.answers(serving), task.answers(candidate), strict=True)
    judged = [LabelledPair(*pair, confidence=(0.5, 0.5)) for pair in pairs]
    wins, losses = ([one.step for one in judged].count(step) for step in (1, -1))
    np.savez(tmp_path / "anchor.npz", inputs=odds, labels=(odds > 0).astype(np.int64))
    anchor = AnchorSet.read(tmp_path / "anchor.npz", (4,), (0.0,), (1.0,), classes=4, label_sets=True)
    assert anchor is not None and anchor.labels.shape == (400, 4)
    sides = [
        anchor.answers(lambda x, by=by: by(x), batch=400) for by in (lambda x: serving, lambda x: candidate)
    ]
    evidence = Evidence(
        serving, candidate, wins, losses, 400, 0.05, judged=judged, source=serving, proven=serving,
        tenants=[str(i % 50) for i in range(400)], anchor=anchor.compare(*sides),
        health={"rounds": 5.0, "loss": 0.3, "nonfinite": 0.0},
    )  # fmt: skip
    found = {name: plugins.make("gates", name, {}).judge(evidence) for name in plugins.available("gates")}
    assert losses == 0 and found["certificate"].verdict == "pass"
    assert {name for name, one in found.items() if one.verdict == "fail"} <= {"guarded"}, found
    worst, calibrated = LabelGuard().judge(evidence, "none")
    assert worst.verdict == "pass" and "labels; none loses" in worst.reason
    assert "on 400 labels" in calibrated.reason
    contrary = replace(evidence, serving=candidate, candidate=-candidate, proven=candidate, source=candidate)
    assert plugins.make("gates", "flips", {}).judge(contrary).verdict == "fail"
    assert (
        plugins.make("gates", "forgetting", {})
        .judge(replace(evidence, anchor=anchor.compare(sides[1], {"clean": -candidate})))
        .verdict
        == "fail"
    )


@pytest.mark.parametrize("labels", [np.zeros(8, int), np.zeros((8, 3), int), np.full((8, 4), 2)])
def test_labels_of_an_anchor_set_tell_of_every_label(labels, tmp_path):
    np.savez(tmp_path / "anchor.npz", inputs=np.zeros((8, 2), np.float32), labels=labels)
    with pytest.raises(ConfigError, match="expected"):
        AnchorSet.read(tmp_path / "anchor.npz", (2,), (0.0,), (1.0,), classes=4, label_sets=True)


def test_what_needs_exclusive_classes_refuses_label_sets():
    with pytest.raises(ConfigError, match=r"a rehearsal needs exclusive classes, .*TTA_MODEL__TASK"):
        ModelOutput(None, "sigmoids").refuse_label_sets("a rehearsal")
    ModelOutput().refuse_label_sets("a rehearsal")


@pytest.mark.parametrize("name", [name for name in SUBJECTS if name != "text"])
@pytest.mark.parametrize("method", ["norm", "tent", "eata", "sar", "adamixbn"])
def test_methods_without_images_learn_on_signals_and_label_sets(name, method, tmp_path, monkeypatch):
    settings, source = loaded(name, method, None, tmp_path, monkeypatch)
    adaptation, subject = build.make_adaptation(settings, source, Telemetry.off()), SUBJECTS[name]
    for i in range(6):
        adaptation.round(subject.draw(64, 100 + i, True)[0])
    x, truths = subject.draw(300, 5, True)
    with torch.no_grad():
        before, after = (
            [
                task.errors(*pair)
                for pair in zip(task.answers(net(torch.from_numpy(x)).numpy()), truths, strict=True)
            ]
            for net in (source.module, adaptation.adapter.servable())
        )
    assert name != "label sets" or adaptation.learnt > 3, "redundancy keeps nobody"
    assert adaptation.totals["kept"] and np.mean(after) < 0.8 * np.mean(before)
