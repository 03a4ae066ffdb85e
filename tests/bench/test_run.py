"""From options to tables: keys, resuming, the row that is published, and what a person meets."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests import worlds
from tests.bench.test_streams import shifted_file, tiny_file
from tta_agent.bench import contenders, plan, predict, quick, report, run, summary
from tta_agent.bench.options import BenchOptions, counts, names, numbers
from tta_agent.bench.work import Work
from tta_agent.cli.bench import bench
from tta_agent.core.errors import ConfigError
from tta_agent.samples.dataset import read_domains

TINY = ("--model", "tests.worlds:tiny_batch_net", "--workers", "0", "--corruptions", "contrast,brightness")
SMALL = ("--images", "40", "--batch", "8", "--lags", "1,2", "--orders", "2", "--methods", "frozen,norm,tent")
BAR = {"source", "online", "served", "served_second_half", "forwards", "backwards", "step_over_forward"}


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Run `tta-agent bench methods` in this process on tiny images, with few timed rounds."""
    monkeypatch.setattr("tta_agent.bench.options.TIMING_S", 0.0)
    monkeypatch.setattr("tta_agent.bench.options.QUICK_TIMING_S", 0.0)
    monkeypatch.setattr("tta_agent.bench.timing.WARM", 0)

    def methods(*options):
        fixed = ["--data", str(tiny_file(tmp_path)), "--work", str(tmp_path / "work"), *TINY]
        done = CliRunner().invoke(bench, ["methods", *fixed, *options])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done

    return methods


def asked(path, **changed):
    given = dict.fromkeys(BenchOptions.__dataclass_fields__)
    fixed = {
        "quick": False, "methods": "norm", "data": str(path), "model": "tests.worlds:tiny_batch_net",
        "mean": "0", "std": "1", "corruptions": "contrast", "severity": 5, "batches": "8", "lags": "1",
    }  # fmt: skip
    return BenchOptions(**{**given, **fixed, **changed})


def keys(path, **changed):
    return {cell.key for cell in asked(path, **changed).plan().accuracies()}


def lines(folder):
    return [json.loads(line) for line in (folder / "work" / "cells.jsonl").read_text().splitlines()]


def test_a_run_writes_every_number_and_every_table(call, tmp_path):
    done = call(*SMALL, "--json", str(tmp_path / "out.json"), "--markdown", str(tmp_path / "out.md"))
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "out.json").read_text())
    assert set(found["methods"]) == {"frozen", "norm", "tent"}
    assert {(t["protocol"], t["batch"]) for t in found["tables"]} == {("reset", 8), ("continual", 8)}
    continual = found["tables"][1]["rows"]["norm"]
    assert {"served@1", "served@2", "change_cost@2", "online_tail"} <= set(continual)
    assert set(continual["online"]) == {"mean", "sd"}
    assert max(figure["sd"] for figure in continual.values()) > 0
    page = (tmp_path / "out.md").read_text()
    assert "| method | source | online | served @1 | served @2 | F | B | time |" in page
    assert "### continual, batch 8" in page and "±" in page


def test_help_says_what_the_words_in_the_tables_mean():
    told = " ".join(CliRunner().invoke(bench, ["methods", "--help"], env={"COLUMNS": "200"}).output.split())
    for words in (
        "served @k",
        "plain forwards",
        "correlated",
        "goes on from the last",
        "--quick",
        "METHOD@PRESET",
    ):
        assert words in told


def test_an_interrupted_run_goes_on_where_it_was(call, tmp_path, monkeypatch):
    measured, calls = run.measured, []

    def until_the_fourth(cell, cache, tick):
        calls.append(cell.key)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return measured(cell, cache, tick)

    monkeypatch.setattr(run, "measured", until_the_fourth)
    assert call(*SMALL).exit_code != 0
    first = lines(tmp_path)
    assert len(first) == 3
    assert call(*SMALL).exit_code == 0
    assert lines(tmp_path)[:3] == first
    assert not {line["key"] for line in first} & set(calls[4:])
    count = len(calls)
    assert call(*SMALL).exit_code == 0
    assert len(calls) == count


def test_a_line_that_was_cut_off_is_measured_again(tmp_path):
    work = Work(tmp_path)
    work.add("a", {}, {"online": 1}, 0.1)
    with work.path.open("a") as file:
        file.write('{"key": "b", "resu')
    Work(tmp_path).add("c", {}, {"online": 3}, 0.1)
    again = Work(tmp_path)
    assert [again.get(key) for key in "abc"] == [{"online": 1}, None, {"online": 3}]
    assert Work(tmp_path, fresh=True).get("a") is None


def test_a_cell_is_known_by_all_that_its_numbers_depend_on(tmp_path, monkeypatch):
    path = tiny_file(tmp_path)
    before = keys(path)
    assert keys(path) == before and len(before) == 6  # two protocols, three orders
    for changed in (
        {"lags": "2"},
        {"batches": "4"},
        {"severity": 4},
        {"images": 16},
        {"mean": "0.5"},
        {"methods": "tent"},
    ):
        assert not keys(path, **changed) & before, changed
    assert keys(path, protocols="reset") < before
    for name, value in (
        ("TTA_ADAPT__OPTIONS", '{"norm": {"momentum": 0.7}}'),
        ("TTA_SELECT__SELECTORS", '["plpd"]'),
        ("TTA_SCHEDULE__SCHEDULES", '["periodic_reset"]'),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert not keys(path) & before, name
    with monkeypatch.context() as patch:
        patch.setenv("TTA_GATE__ALPHA", "0.05")  # gates have no part in it
        assert keys(path) == before
    with monkeypatch.context() as patch:
        patch.setattr(plan.digest, "code", lambda *modules: "changed")
        assert not keys(path) & before
    (tmp_path / "other").mkdir()
    assert not keys(tiny_file(tmp_path / "other", n=47)) & before
    assert not keys(path, model="tests.bench.test_run:other_net") & before


def other_net():
    """Other weights."""
    net = worlds.tiny_batch_net()
    net[-1].bias.data += 1
    return net


def test_the_code_of_a_method_is_known_with_all_that_it_stands_on():
    adapter = plan.digest.code("tta_adapters.tent")
    assert adapter != plan.digest.code("tta_adapters.norm")
    assert adapter == plan.digest.code("tta_adapters.tent", "tta_agent.models.batchnorm")


def test_quick_writes_the_published_row_and_nothing_beside_it(call, tmp_path, monkeypatch):
    monkeypatch.setenv("TTA_SELECT__SELECTORS", "[]")  # the tiny net is sure of nothing
    done = call("--quick", "--methods", "norm,tent", "--json", str(tmp_path / "out.json"), "--batch", "4")
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "out.json").read_text())
    assert set(found) == {"methods", "peers"}
    assert set(found["methods"]) == {"norm", "tent"}
    for row in found["methods"].values():
        assert set(row) >= BAR
        assert all(0 <= row[name] <= 1 for name in ("source", "online", "served", "served_second_half"))
        assert (row["lag"], row["batch"], row["images"]) == (5, 4, 48)
    assert [found["methods"]["tent"][name] for name in ("forwards", "backwards")] == [1, 1]
    assert set(found["peers"]) == set(plan.peers.names()) & {"tent"}


def test_without_the_peer_the_run_says_so_once(call, tmp_path, monkeypatch):
    monkeypatch.setattr(plan.peers, "NEEDS", ("no_such_package",))
    done = call(
        "--quick", "--methods", "tent", "--images", "24", "--batch", "4", "--json", str(tmp_path / "o.json")
    )
    assert json.loads((tmp_path / "o.json").read_text())["peers"] == {}
    assert done.output.count("no peers: no_such_package not installed") == 1


def test_a_method_that_refuses_a_model_is_named_with_its_reason(call):
    done = call(
        *SMALL, "--model", "tests.bench.test_run:group_net", "--methods", "norm,tent", "--protocol", "reset"
    )
    assert done.exit_code == 0, done.output
    assert "norm refuses: adapter 'norm' adapts" in done.output


def group_net():
    """No BatchNorm in it."""
    from tta_agent.testing import tiny_net

    return tiny_net("group")


def test_quick_takes_as_many_images_as_fit_and_few_for_the_heavy(tmp_path):
    made = asked(tiny_file(tmp_path, n=4000), quick=True, methods="norm,tent", batches="100").plan()

    def images(tent_s, spent_s=0.0):
        timings = {
            ("norm", 100): {"forward_s": 0.1, "step_s": 0.2, "step_over_forward": 2.0},
            ("tent", 100): {"forward_s": 0.1, "step_s": tent_s, "step_over_forward": tent_s / 0.1},
        }
        return quick.fit(made, predict.Predictor(timings), spent_s, workers=2)

    assert images(0.3) == {"norm": 4000, "tent": 4000}
    assert images(5.0) == {"norm": 4000, "tent": 800}
    tight = images(0.3, spent_s=480)
    assert tight["norm"] == tight["tent"] < 4000


def test_means_are_over_corruptions_and_deviations_over_orders():
    rows = [(0, {"online": 0.5}), (0, {"online": 0.7}), (1, {"online": 0.8}), (1, {"online": None})]
    figure = summary._row(rows)["online"]
    assert (figure.mean, figure.sd) == (pytest.approx(0.7), pytest.approx(0.02**0.5))


def test_a_sheet_is_a_markdown_table():
    sheet = report.Sheet("title", ["a", "b"], [["x", "1"]], "note")
    assert sheet.markdown() == "### title\n\nnote\n\n| a | b |\n| --- | ---: |\n| x | 1 |\n"


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (
            lambda: names("--corruptions", "fogg", ("fog", "snow")),
            "--corruptions: no 'fogg'; did you mean fog?",
        ),
        (lambda: counts("--lags", "1,x"), "--lags 1,x: expected a number"),
        (lambda: counts("--batch", "0"), "--batch 0: expected whole numbers from 1 on"),
        (lambda: numbers("--mean", ""), "--mean : expected a number"),
        (lambda: contenders.parse("tnet"), "did you mean tent?"),
        (lambda: contenders.parse("tent@balancd"), "did you mean balanced?"),
        (lambda: contenders.parse(","), "names nobody; valid: all, frozen"),
        (lambda: contenders.parse("nowhere.yaml"), "nowhere.yaml: cannot read it"),
        (lambda: Work(Path("/proc/nowhere")), "--work /proc/nowhere"),
    ],
)
def test_what_does_not_fit_is_said_with_what_would(ask, told):
    with pytest.raises(ConfigError) as error:
        ask()
    assert told in str(error.value)


def test_contenders_are_methods_presets_and_files(tmp_path):
    own = tmp_path / "mine.yaml"
    own.write_text("adapt: {method: tent, options: {tent: {lr: 0.002}}}\nselect: {selectors: [entropy]}\n")
    found = {
        c.name: c.settings({}, "reset") for c in contenders.parse(f"tent,norm@conservative,@aggressive,{own}")
    }
    assert list(found) == ["tent", "norm@conservative", "aggressive", "mine"]
    assert (
        found["norm@conservative"].gate.alpha == 0.001 and found["norm@conservative"].adapt.method == "norm"
    )
    assert found["mine"].adapt.options == {"tent": {"lr": 0.002}}
    assert found["mine"].select.selectors == ["entropy"] and found["mine"].mode == "shadow"
    assert contenders.parse("tent", "balanced")[0].name == "tent@balanced"
    assert contenders.parse("tent")[0].settings({}, "single").adapt.window == contenders.WINDOW
    assert contenders.everyone()[:3] == ["frozen", "norm", "tent"]


@pytest.mark.slow
def test_worker_processes_find_what_this_one_finds(call, tmp_path):
    environment = {**worlds.clean_environ(), "OMP_NUM_THREADS": "1"}
    options = [*TINY, *SMALL, "--methods", "norm", "--protocol", "reset", "--orders", "1", "--workers", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "tta_agent", "bench", "methods", "--data", str(tiny_file(tmp_path)),
         "--work", str(tmp_path / "other"), "--json", str(tmp_path / "two.json"), *options],
        env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "measuring 2/2" in done.stderr
    call(
        *SMALL,
        "--methods",
        "norm",
        "--protocol",
        "reset",
        "--orders",
        "1",
        "--json",
        str(tmp_path / "one.json"),
    )
    one, two = (json.loads((tmp_path / f"{name}.json").read_text())["tables"] for name in ("one", "two"))
    assert one == two


@pytest.mark.usefixtures("call")
def test_a_file_that_names_domains_needs_no_corruption(tmp_path):
    path, *_ = shifted_file(tmp_path, {"art": 40, "sketch": 24})
    plan = asked(path, corruptions=None).plan()
    assert plan.stream.given and plan.stream.domains == tuple(dict.fromkeys(read_domains(path).tolist()))
    assert plan.stream.images == 40
    assert asked(path, corruptions="contrast").plan().stream.given is False
    done = CliRunner().invoke(bench, [
        "methods", "--data", str(path), "--model", "tests.worlds:tiny_batch_net", "--workers", "0", "--images", "32",
        "--batch", "8", "--lags", "1", "--orders", "1", "--methods", "norm", "--work", str(tmp_path / "work"),
        "--json", str(tmp_path / "out.json"),
    ])  # fmt: skip
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "out.json").read_text())
    assert {"art", "sketch"} <= set(found["corruptions"] if "corruptions" in found else str(found).split("'"))


@pytest.mark.parametrize("domain", [np.arange(24), np.array(["a"] * 23), np.array([None] * 24)])
def test_domains_that_do_not_fit_the_images_are_refused(tmp_path, domain):
    path, inputs, _ = shifted_file(tmp_path, {"art": 24})
    np.savez(path, inputs=inputs, labels=np.arange(24) % 4, domain=domain)
    with pytest.raises(ConfigError, match="domain"):
        asked(path, corruptions=None).plan()
