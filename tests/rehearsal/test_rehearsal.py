"""From labelled images to what the gate is told, with a net so small that it takes seconds."""

import json
import shutil

import numpy as np
import pytest
import torch
from torch import nn

from tta_agent.core.evidence import AnchorResult
from tta_agent.evaluation.rehearsed import regress, store
from tta_agent.evaluation.rehearsed.proof import Rehearsed, fit
from tta_agent.rehearsal import page, run, words
from tta_agent.rehearsal.worlds import bank
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
def stage(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rehearsal")
    random = np.random.default_rng(0)
    inputs = random.integers(0, 256, (300, 3, 16, 16), dtype=np.uint8)
    np.savez(folder / "anchor.npz", inputs=inputs, labels=np.arange(300) % 4)
    settings = env.load(
        model={"factory": f"{__name__}:Small"}, adapt={"method": "norm"}, store={"path": folder}
    )
    return run.Stage(settings, folder / "anchor.npz")


@pytest.fixture(scope="module")
def shelf(stage):
    shelf = store.Shelf(stage.settings.store.path / "rehearsal", "key")
    scenes = bank(families=("gaussian_noise", "fog", "rotation"), failures=("bias", "double"))[:8]
    assert run.carry_out(stage, scenes, shelf, workers=0, seconds=600) == 8
    return shelf


@pytest.fixture(scope="module")
def rehearsed(stage, shelf):
    rows = shelf.rows(shelf.finished())
    shelf.conclude(fit(rows), {"scenes": sorted(shelf.finished()), "window": 500, "method": "norm"})
    return store.open_rehearsal(shelf.path.parent, "key", Small())


def test_finished_scenes_are_not_played_again(stage, shelf):
    size = (shelf.path / store.ROWS).stat().st_size
    scenes = bank(families=("gaussian_noise", "fog", "rotation"), failures=("bias", "double"))[:8]
    assert run.carry_out(stage, scenes, shelf, workers=0, seconds=600) == 8
    assert (shelf.path / store.ROWS).stat().st_size == size


def test_a_scene_gives_the_same_rows_again(stage):
    scene = bank(families=("fog",), failures=("swap",))[0]
    first, second = (run.player(stage).play(scene) for _ in range(2))
    assert [row.plain() for row in first] == [row.plain() for row in second]


def test_a_line_that_was_cut_off_costs_one_scene(shelf, tmp_path):
    copy = store.Shelf(tmp_path, "copy")
    copy.path.mkdir()
    data = (shelf.path / store.ROWS).read_bytes()
    (copy.path / store.ROWS).write_bytes(data[:-40])
    assert len(copy.finished()) == len(shelf.finished()) - 1
    copy.keep("another", [], 1.0)
    assert "another" in copy.finished()


def test_what_is_read_back_answers_alike(rehearsed, shelf):
    again = store.open_rehearsal(shelf.path.parent, "key", Small())
    evidence = rehearsed._table.evidence[3]
    assert isinstance(again, Rehearsed) and again.window == 500
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


def test_other_settings_ask_for_another_rehearsal(stage):
    key = store.key("weights", store.learning(stage.settings))
    other = env.load(adapt={"method": "norm", "options": {"norm": {"momentum": 0.2}}})
    assert (
        store.key("weights", store.learning(other))
        != key
        != store.key("others", store.learning(stage.settings))
    )


def test_what_other_learners_got_wrong_is_not_taken_for_ours(tmp_path, shelf, rehearsed, monkeypatch):
    shutil.copytree(shelf.path, tmp_path / "key")
    assert store.open_rehearsal(tmp_path, "key", Small()) is not None
    monkeypatch.setattr(regress, "VERSION", regress.VERSION + 1)
    assert store.open_rehearsal(tmp_path, "key", Small()) is None


def test_there_is_no_rehearsal_until_one_is_concluded(tmp_path):
    assert store.open_rehearsal(tmp_path, "nothing", Small()) is None


def test_the_page_needs_no_network(shelf, rehearsed):
    summary = shelf.summary()
    rows = shelf.rows(set(summary["scenes"]))
    told = words.findings(rows, summary)
    text = page.html(rows, summary, told)
    assert "http" not in text and "gaussian_noise" in text and "clean data" in text
    assert len(text) < 2_000_000 and json.dumps(told)
