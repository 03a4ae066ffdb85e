"""From labelled images to what the gate is told, with a net so small that it takes seconds."""

import json
import shutil

import numpy as np
import pytest
import torch
from torch import nn

from tta_agent.core.evidence import AnchorResult
from tta_agent.evaluation.rehearsed import regress, store
from tta_agent.evaluation.rehearsed.proof import GainEstimator, fit
from tta_agent.rehearsal import page, run, words
from tta_agent.rehearsal.scenarios import bank
from tta_agent.settings import env


class Small(nn.Module):
    input_shape = (3, 16, 16)

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rehearsal")
    random = np.random.default_rng(0)
    inputs = random.integers(0, 256, (300, 3, 16, 16), dtype=np.uint8)
    np.savez(folder / "anchor.npz", inputs=inputs, labels=np.arange(300) % 4)
    settings = env.load(
        model={"factory": f"{__name__}:Small"}, adapt={"method": "norm"}, store={"path": folder}
    )
    return run.PlayerConfig(settings, folder / "anchor.npz")


@pytest.fixture(scope="module")
def saved(config):
    saved = store.RehearsalStore(config.settings.store.path / "rehearsal", "key")
    groups = bank(families=("gaussian_noise", "fog", "rotation"), failures=("bias", "double"))[:8]
    assert run.carry_out(config, groups, saved, workers=0, seconds=600) == 8
    return saved


@pytest.fixture(scope="module")
def rehearsed(config, saved):
    rows = saved.rows(saved.finished())
    saved.conclude(fit(rows), {"scenes": sorted(saved.finished()), "window": 500, "method": "norm"})
    return store.open_rehearsal(saved.path.parent, "key", Small())


def test_finished_groups_are_not_played_again(config, saved):
    size = (saved.path / store.ROWS).stat().st_size
    groups = bank(families=("gaussian_noise", "fog", "rotation"), failures=("bias", "double"))[:8]
    assert run.carry_out(config, groups, saved, workers=0, seconds=600) == 8
    assert (saved.path / store.ROWS).stat().st_size == size


def test_a_group_gives_the_same_rows_again(config):
    group = bank(families=("fog",), failures=("swap",))[0]
    first, second = (run.player(config).play(group) for _ in range(2))
    assert [row.plain() for row in first] == [row.plain() for row in second]


@pytest.mark.slow
def test_worker_processes_find_the_same_rows(config, saved, tmp_path):
    groups = bank(families=("gaussian_noise", "fog", "rotation"), failures=("bias", "double"))[:3]
    apart, finished = store.RehearsalStore(tmp_path, "apart"), []
    count = run.carry_out(
        config, groups, apart, workers=2, seconds=600,
        on_finished=lambda done, total, group: finished.append((done, total)),
    )  # fmt: skip
    assert (count, finished) == (3, [(1, 3), (2, 3), (3, 3)])
    names = apart.finished()
    assert names == {config.name(group) for group in groups} and apart.rows(names) == saved.rows(names)


def test_a_line_that_was_cut_off_costs_one_group(saved, tmp_path):
    copy = store.RehearsalStore(tmp_path, "copy")
    copy.path.mkdir()
    data = (saved.path / store.ROWS).read_bytes()
    (copy.path / store.ROWS).write_bytes(data[:-40])
    assert len(copy.finished()) == len(saved.finished()) - 1
    copy.keep("another", [], 1.0)
    assert "another" in copy.finished()


def test_what_is_read_back_answers_alike(rehearsed, saved):
    again = store.open_rehearsal(saved.path.parent, "key", Small())
    evidence = rehearsed._table.evidence[3]
    assert isinstance(again, GainEstimator) and again.window == 500
    assert again.judge(evidence) == rehearsed.judge(evidence)


def test_nothing_is_said_of_what_cannot_be_read(rehearsed):
    z = np.random.default_rng(0).standard_normal((500, 4))
    answers = {"clean": z[:60], "gaussian_noise": z[:60], "defocus_blur": z[:60]}
    anchor = AnchorResult(np.arange(60) % 4, answers, answers)
    broken = z.copy()
    broken[7] = np.nan
    said = [
        rehearsed.expect(z, z, z, None, {}),
        rehearsed.expect(z[:100], z[:100], z[:100], anchor, {}),
        rehearsed.expect(z, broken, z, anchor, {}),
    ]
    assert not any(expected.supported for expected in said)
    assert ["TTA_GATE__ANCHOR" in said[0].reason, "100" in said[1].reason, "finite" in said[2].reason] == [
        True
    ] * 3


def test_other_settings_ask_for_another_rehearsal(config):
    key = store.key("weights", store.learning(config.settings))
    other = env.load(adapt={"method": "norm", "options": {"norm": {"momentum": 0.2}}})
    assert (
        store.key("weights", store.learning(other))
        != key
        != store.key("others", store.learning(config.settings))
    )


def test_what_other_learners_got_wrong_is_not_taken_for_ours(tmp_path, saved, rehearsed, monkeypatch):
    shutil.copytree(saved.path, tmp_path / "key")
    assert store.open_rehearsal(tmp_path, "key", Small()) is not None
    monkeypatch.setattr(regress, "VERSION", regress.VERSION + 1)
    assert store.open_rehearsal(tmp_path, "key", Small()) is None


def test_there_is_no_rehearsal_until_one_is_concluded(tmp_path):
    assert store.open_rehearsal(tmp_path, "nothing", Small()) is None


def test_the_page_needs_no_network(saved, rehearsed):
    summary = saved.summary()
    rows = saved.rows(set(summary["scenes"]))
    told = words.findings(rows, summary)
    text = page.html(rows, summary, told)
    assert "http" not in text and "gaussian_noise" in text and "clean data" in text
    assert len(text) < 2_000_000 and json.dumps(told)


@pytest.mark.parametrize("workers", [0, 1])
def test_each_scenario_tells_its_seconds_as_it_is_played(config, tmp_path, workers):
    groups, seconds = bank(families=("fog",), failures=("bias",))[:1], []
    apart = store.RehearsalStore(tmp_path, "timed")
    assert run.carry_out(config, groups, apart, workers=workers, seconds=600, on_scenario=seconds.append) == 1
    rows = apart.rows(apart.finished())
    assert len(seconds) == len(rows) and min(seconds) > 0
    assert 0 < sum(seconds) <= apart.seconds(apart.finished())[0] + 1e-6


def test_rows_tell_how_candidates_look_to_plausibility_gates(saved):
    rows = saved.rows(saved.finished())
    assert all(
        set(row.looks) >= {"collapse.ratio", "calibration.low", "flips.limit", "rank.ratio"} for row in rows
    )
    doubled = [row.looks["calibration.high"] for row in rows if row.kind == "double"]
    sound = [row.looks["calibration.high"] for row in rows if row.kind == "adapted"]
    assert max(doubled) > max(sound)
