"""`tta-agent replay`: several policies, results for people and scripts, exit status, interrupts."""

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile

import pytest
import typer.testing
import yaml

from tests import worlds
from tta_agent.cli.main import app
from tta_agent.core.errors import ConfigError
from tta_agent.replay import several
from tta_agent.replay.tape import Late
from tta_agent.settings import env, named
from tta_agent.stream.codecs.cloudevents import CloudEvents


@pytest.fixture(autouse=True)
def _fashion(monkeypatch, tmp_path):
    for name, value in worlds.FASHION.items():
        monkeypatch.setenv(name, value)
    # torch makes its cache in the temporary folder when first asked, which may be in any of these tests
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "torch"))
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    yield
    assert list((tmp_path / "temp").iterdir()) == []  # nothing stays behind, whatever happened


@pytest.fixture(scope="module")
def shifting(tmp_path_factory):
    return worlds.recording(tmp_path_factory.mktemp("shifting"), clean=200, shifted=1000)


def replay(*words):
    return typer.testing.CliRunner().invoke(app, ["replay", *map(str, words)])


@pytest.fixture(scope="module")
def both(shifting, tmp_path_factory):
    """Two policies, once: exit status, files, what was printed."""
    folder = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in worlds.FASHION.items():
            patch.setenv(name, value)
        done = replay(
            shifting, "--policy", "balanced", "--policy", "observe-only", "--json", folder / "r.json", "--html",
            folder / "r.html", "--fail-if", "served < source - 0.5", "--fail-if", "observe-only: swaps < 1",
        )  # fmt: skip
    return done, json.loads((folder / "r.json").read_text()), (folder / "r.html").read_text()


def test_two_policies_are_compared_on_the_same_records(both):
    _, result, _ = both
    assert (result["schema_version"], result["complete"], result["records"]) == (1, True, 1200)
    one, other = result["policies"]
    assert (one["name"], other["name"]) == ("balanced", "observe-only")
    assert other["gain"] == 0 and other["adapted"] == 0 and other["swaps"] == []
    assert one["adapted"] > 300 and one["labels_arrived"] == other["labels_arrived"] > 0
    assert one["served_accuracy"] >= result["source_accuracy"] - 0.005
    for i, row in enumerate(result["windows"]):
        served = [policy["windows"]["served"][i] for policy in result["policies"]]
        assert row["oracle"] >= max([row["source"], *served])
    assert [row["domain"] for row in result["domains"]] == ["clean", "shifted"]


def test_fail_if_ends_with_one_and_says_who_failed(both):
    done, _, _ = both
    assert done.exit_code == 1
    assert done.stderr.strip().splitlines()[-1] == (
        "tta-agent replay: observe-only fails 'observe-only: swaps < 1': swaps is 0 against 1, by 1"
    )
    assert "served < source" not in done.stderr


def test_people_get_a_table_and_a_page(both):
    done, _, page = both
    assert "balanced" in done.stdout and "frozen source" in done.stdout
    assert "observe-only" in page and len(page) < 2_000_000


def test_a_policy_that_passes_ends_with_zero_and_scripts_get_json_alone(shifting):
    done = replay(shifting, "--policy", "observe-only", "--json", "-", "--fail-if", "served < source")
    assert done.exit_code == 0
    assert [one["name"] for one in json.loads(done.stdout)["policies"]] == ["observe-only"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--policy", "balansed"], "did you mean balanced"),
        (["--policy", "tend@balanced"], "did you mean tent"),
        (["--policy", "tent@balansed"], "did you mean balanced"),
        (["--policy", "tent", "--policy", "tent"], "two policies are called 'tent'"),
        (["--fail-if", "serfed < 1"], "did you mean served"),
        (["--speed", "fast"], "expected max"),
        (["--speed", "0"], "expected max"),
        (["--json", "nowhere/r.json"], "there is no folder"),
        (["--html", "nowhere/r.html"], "there is no folder"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_played(words, said, tmp_path):
    done = replay(tmp_path, *words)
    assert isinstance(done.exception, ConfigError) and said in str(done.exception)


def test_labels_on_request_are_told_as_such(shifting, monkeypatch):
    monkeypatch.setenv("TTA_LABELS__REQUESTS_PER_DAY", "40")
    late = ("--labels", "requested", "--label-rate", "1", "--label-delay-s", "1")
    told = replay(str(shifting), "--policy", "balanced", *late, "--json", "-")
    result = json.loads(told.stdout)
    assert result["labels"] == {"which": "requested", "rate": 1.0, "delay_s": 1.0, "seed": 0}
    assert 0 < result["policies"][0]["labels_arrived"] <= 11
    shown = replay(str(shifting), "--policy", "balanced", *late)
    assert "100% of those that it asks for, 1 s late" in " ".join(shown.stdout.split())


def test_a_policy_may_be_a_preset_a_method_both_or_a_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"policy": "conservative", "adapt": {"method": "tent"}}))
    found = named.policies(["conservative", "tent", "norm@aggressive", "@balanced", str(file)])
    assert [one.name for one in found] == ["conservative", "tent", "norm@aggressive", "balanced", "mine"]
    settings = [one.settings() for one in found]
    assert [s.adapt.method for s in settings] == ["norm", "tent", "norm", "tent", "tent"]
    assert [s.policy for s in settings] == [
        "conservative",
        "balanced",
        "aggressive",
        "balanced",
        "conservative",
    ]
    file.write_text("- a list")
    with pytest.raises(ConfigError, match="settings by group"):
        named.policy(str(file))
    with pytest.raises(ConfigError, match="cannot read it"):
        named.policy("gone.yaml")


def test_policies_must_speak_of_one_model(shifting):
    one, other = env.load(), env.load(model={"threads": 2})
    with pytest.raises(ConfigError, match="policies a and b speak of different models"):
        several.play(shifting, {"a": one, "b": other}, Late())


@pytest.fixture
def interrupted(monkeypatch):
    """Ctrl-C in the middle of policy `conservative`."""
    really = several.replay

    def impatient(folder, settings, *, progress, **late):
        def tick(done, total):
            progress(done, total)
            if settings.policy == "conservative" and done > 300:
                raise KeyboardInterrupt

        return really(folder, settings, progress=tick, **late)

    monkeypatch.setattr(several, "replay", impatient)


@pytest.mark.slow
def test_an_interrupt_keeps_what_is_finished_and_nothing_else(shifting, tmp_path, interrupted):
    words = ["--policy", "observe-only", "--policy", "conservative", "--fail-if", "swaps < 1"]
    done = replay(shifting, *words, "--json", tmp_path / "r.json")
    assert done.exit_code == 130
    assert "interrupted: 1 of 2 policies" in done.stderr
    result = json.loads((tmp_path / "r.json").read_text())
    assert (result["complete"], [one["name"] for one in result["policies"]]) == (False, ["observe-only"])


@pytest.mark.slow
def test_what_an_interrupt_cuts_off_is_kept_up_to_its_record(shifting, tmp_path, interrupted):
    """Alone it is the report; beside finished policies it stands under `partial`, for it saw fewer records."""
    for words, names in (
        (["observe-only", "conservative"], ["observe-only"]),
        (["conservative"], ["conservative"]),
    ):
        done = replay(shifting, *(w for name in words for w in ("--policy", name)), "--json", tmp_path / "r.json",
                      "--html", tmp_path / "r.html")  # fmt: skip
        assert done.exit_code == 130
        assert "conservative up to record 304" in done.stderr
        result = json.loads((tmp_path / "r.json").read_text())
        assert [one["name"] for one in result["policies"]] == names
        [cut] = result["partial"]
        assert (cut["name"], cut["records"], result["complete"]) == ("conservative", 304, False)
        assert cut["windows"][-1]["end"] == 304 and 0 < cut["served_accuracy"] <= 1
        assert (tmp_path / "r.html").stat().st_size > 1000


@pytest.mark.slow
def test_a_replay_that_is_terminated_leaves_what_it_had(shifting, tmp_path):
    words = [
        "replay",
        str(shifting),
        "--policy",
        "conservative",
        "--json",
        str(tmp_path / "r.json"),
        "--speed",
        "0.2",
    ]
    asked = subprocess.Popen(
        [sys.executable, "-m", "tta_agent", *words], stderr=subprocess.PIPE, text=True, env={**os.environ}
    )
    line = asked.stderr.readline()  # no terminal: the first line of progress
    asked.terminate()
    rest = asked.communicate(timeout=120)[1]
    assert "records (" in line and asked.returncode == 130
    assert "interrupted: 0 of 1 policies are written; conservative up to record" in rest
    assert 0 < json.loads((tmp_path / "r.json").read_text())["records"] < 1200


@pytest.mark.slow
def test_processes_find_the_same_and_none_is_left_after_an_interrupt(tmp_path_factory):
    shifting = worlds.recording(tmp_path_factory.mktemp("short"), clean=50, shifted=250)
    policies = {name: env.load(policy=name) for name in ("observe-only", "conservative")}
    alone, complete = several.play(shifting, policies, Late())
    together, also = several.play(shifting, policies, Late(), workers=2)
    assert complete and also and list(alone) == list(together)
    for name in policies:
        for key in ("windows", "domains", "served_accuracy", "labels_used", "kept_by_reason"):
            assert alone[name][key] == together[name][key]

    def impatient(name, done, total):
        raise KeyboardInterrupt

    found, complete = several.play(shifting, policies, Late(), workers=2, tick=impatient)
    assert (found, complete) == ({}, False)
    assert multiprocessing.active_children() == []


def test_a_tape_can_run_at_the_pace_of_the_recording(shifting, monkeypatch):
    from tta_agent.replay import tape

    slept = []
    monkeypatch.setattr(tape.time, "sleep", slept.append)
    monkeypatch.setattr(tape.time, "monotonic", lambda: 50.0)
    recording = tape.Recording.open(shifting)
    paced = tape.Tape(recording, Late(speed=10.0), CloudEvents())
    paced._wait(100.0)
    paced.records = 1
    paced._wait(101.0)
    paced._wait(100.5)  # another partition, a little behind: time does not go back
    assert slept == pytest.approx([0.0, 0.1, 0.1]) and paced.now_s == 101.0
