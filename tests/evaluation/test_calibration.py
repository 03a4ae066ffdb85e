"""A/A runs: jitter of the right size, nulls of the gates' own statistics, a file that says of what."""

import json
import logging

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from tests import worlds
from tta_agent import testing
from tta_agent.cli.calibrate import calibrate
from tta_agent.core.errors import ConfigError
from tta_agent.core.types import GateResult
from tta_agent.evaluation import calibration as c


class Watching:
    """A gate that fires as told, and keeps what it was shown."""

    def __init__(self, name="disagreement", verdict="pass"):
        self.name, self.verdict, self.seen = name, verdict, []

    def judge(self, evidence):
        self.seen.append(evidence)
        share = float((evidence.serving.argmax(1) != evidence.candidate.argmax(1)).mean())
        return GateResult(self.name, share, 0.0, self.verdict, "")


def answers(n=1000, apart=0.01, labels=True):
    rng = np.random.default_rng(0)
    serving = rng.normal(size=(n, 5)).astype(np.float32)
    jittered = serving.copy()
    moved = rng.random(n) < apart
    jittered[moved] = np.roll(jittered[moved], 1, axis=1)
    truth = np.where(rng.random(n) < 0.5, serving.argmax(1), -1) if labels else np.full(n, -1)
    return c.Answers(serving, [jittered, jittered], truth, [f"t{i}" for i in range(n)], [None, None])


def test_the_jitter_is_chosen_so_that_one_answer_in_a_hundred_differs():
    module = testing.tiny_net("batch")
    x = np.random.default_rng(0).normal(size=(2000, 1, 8, 8)).astype(np.float32)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    sigma = c.find_sigma(module, x)
    differs = [
        float((c.ask(c.jittered(module, sigma, seed), x).argmax(1) != c.ask(module, x).argmax(1)).mean())
        for seed in range(5)
    ]
    assert 0.002 < np.mean(differs) < 0.05
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_both_kinds_of_pairs_keep_the_order_of_the_stream():
    data, gate = answers(), Watching("histogram")
    list(c.runs(data, {"histogram": gate}, 100, 9, 0.01))
    assert len(gate.seen) == 18
    paired, halves = gate.seen[::2], gate.seen[1::2]
    assert (paired[0].serving == data.serving[:100]).all() and (
        paired[-1].serving == data.serving[800:900]
    ).all()
    assert (paired[0].candidate == data.jittered[0][:100]).all()
    assert (halves[0].serving == data.serving[:200:2]).all() and (
        halves[0].candidate == data.serving[1:200:2]
    ).all()


def test_gates_that_compare_record_by_record_are_not_asked_about_halves():
    gate = Watching("flips")
    list(c.runs(answers(), {"flips": gate}, 100, 9, 0.01))
    assert len(gate.seen) == 9


def test_labels_reach_the_proofs():
    data, gate = answers(apart=0.2), Watching()
    list(c.runs(data, {"certificate": gate}, 300, 5, 0.01))
    first = gate.seen[0]
    assert first.labels == len(first.judged) == int((data.labels[:300] >= 0).sum())
    assert first.wins == 0 and first.losses == sum(one.step < 0 for one in first.judged) > 0
    assert first.source is first.serving and first.alpha == 0.01


def test_a_veto_fires_by_failing_and_a_proof_by_passing():
    veto, proof = Watching(verdict="fail"), Watching(verdict="pass")
    proof.proof = "certified"
    found = c.summary(c.runs(answers(), {"a": veto, "b": proof, "c": Watching()}, 100, 9, 0.01))
    assert {name: null.fire_rate for name, null in found.items()} == {"a": 1.0, "b": 1.0, "c": 0.0}


def test_the_quantile_is_a_value_that_was_seen_and_the_histogram_is_scaled():
    found = c.summary(
        c.runs(answers(), {"a": Watching(), "histogram": Watching("histogram")}, 100, 400, 0.01)
    )
    assert 0.01 < found["a"].value <= 0.06 and found["a"].windows == 400
    assert found["histogram"].value > 100  # 4 N times the value
    assert found["histogram"].windows == 800


def test_too_few_records():
    with pytest.raises(ConfigError, match="199 records are too few for windows of 100: expected 200"):
        list(c.runs(answers(199), {}, 100, 3, 0.01))


def test_what_is_saved_is_loaded_for_the_same_model_only(tmp_path, caplog):
    assert c.load(tmp_path) == {}
    c.save(tmp_path / "store", {"histogram": c.Null(12.5, 400, 0.002)}, fingerprint="abc", window=100)
    assert c.load(tmp_path / "store") == c.load(tmp_path / "store", "abc") == {"histogram": 12.5}
    saved = json.loads((tmp_path / "store" / c.FILE).read_text())
    assert saved["gates"]["histogram"] == {
        "quantile": 0.995,
        "value": 12.5,
        "windows": 400,
        "fire_rate": 0.002,
    }
    with caplog.at_level(logging.WARNING):
        assert c.load(tmp_path / "store", "other") == {}
    assert "another model" in caplog.text


@pytest.mark.parametrize("text", ["", "[]", '{"gates": {"a": {}}}', '{"gates": 3}'])
def test_a_damaged_file_says_how_to_mend_it(tmp_path, text):
    (tmp_path / c.FILE).write_text(text)
    with pytest.raises(ConfigError, match="tta-agent calibrate"):
        c.load(tmp_path)


def command(tmp_path, monkeypatch, *arguments):
    app = typer.Typer()
    app.command()(calibrate)
    for name, value in {**worlds.FASHION, "TTA_STORE__PATH": str(tmp_path / "store")}.items():
        monkeypatch.setenv(name, value)
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_the_command_writes_nulls_and_shows_how_often_each_gate_fires(tmp_path, monkeypatch):
    recording = worlds.recording(tmp_path, 400, 400)
    done = command(tmp_path, monkeypatch, recording, "--windows", 20)
    assert done.exit_code == 0, done.output
    assert "A/A: 800 records, windows of 200" in done.output and "certificate" in done.output
    nulls = c.load(tmp_path / "store")
    assert nulls["histogram"] > 0 and "concentration" in nulls
    done = command(tmp_path, monkeypatch, recording, "--windows", 10, "--json")
    told = json.loads(done.stdout)
    assert told["labels"] == 800 and told["gates"]["collapse"]["fire_rate"] == 0


def test_the_command_names_what_does_not_fit(tmp_path, monkeypatch):
    recording = worlds.recording(tmp_path, 60, 60)
    error = command(tmp_path, monkeypatch, recording).exception
    assert isinstance(error, ConfigError) and "120 records are too few" in str(error)


def test_help_has_an_example(tmp_path, monkeypatch):
    assert "Try: tta-agent record" in command(tmp_path, monkeypatch, "--help").output
