"""Settings: precedence, presets, and errors that name the nearest valid choice."""

import json

import pytest

from tta_agent.core.errors import ConfigError
from tta_agent.evaluation import anchor_set
from tta_agent.labels import join
from tta_agent.rollout.limits import RolloutLimits
from tta_agent.settings import env, named, presets, retired
from tta_agent.settings.schema import Settings
from tta_agent.tap import inference_log


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for name in env.env_names():
        monkeypatch.delenv(name, raising=False)


def test_flags_over_environment_over_preset_over_defaults(monkeypatch):
    assert env.load().gate.alpha == 0.01
    monkeypatch.setenv("TTA_POLICY", "aggressive")
    assert env.load().gate.alpha == 0.05
    assert env.load().adapt.options == {"tent": {"lr": 0.002, "momentum": 0.5}}
    monkeypatch.setenv("TTA_GATE__ALPHA", "0.02")
    assert env.load().gate.alpha == 0.02
    assert env.load(gate={"alpha": 0.03}).gate.alpha == 0.03
    assert env.load(policy="conservative").adapt.method == "norm"


@pytest.mark.parametrize("name", presets.presets())
def test_every_preset_is_valid(name):
    assert env.load(policy=name).policy == name


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("TTA_MOED", "auto", "did you mean TTA_MODE?"),
        ("TTA_BATCHSIZE", "64", "is not a setting"),
        ("TTA_GATE__ALHPA", "0.1", "did you mean TTA_GATE__ALPHA?"),
        ("TTA_GATE__ALPHA", "2", "less than 0.5"),
        ("TTA_ADAPT__BATCH_SIZE", "many", "TTA_ADAPT__BATCH_SIZE='many'"),
        ("TTA_POLICY", "balancd", "did you mean balanced?"),
        ("TTA_MODEL__DEVICE", "gpu", "TTA_MODEL__DEVICE='gpu'"),
        ("TTA_MODE", "always", "'observe', 'shadow', 'approve' or 'auto'"),
    ],
)
def test_a_wrong_setting_is_refused_in_a_few_lines(monkeypatch, name, value, message):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as refused:
        env.load()
    assert message in str(refused.value)
    assert len(str(refused.value).splitlines()) <= 3


def test_options_by_plugin_can_be_given_one_by_one(monkeypatch):
    monkeypatch.setenv("TTA_ADAPT__OPTIONS", json.dumps({"tent": {"lr": 0.5}}))
    assert env.load().adapt.options["tent"]["lr"] == 0.5


def test_the_schema_describes_every_setting():
    schema = Settings.model_json_schema()
    fields = [field for group in schema["$defs"].values() for field in group["properties"].values()]
    assert len(fields) > 40
    assert all(field.get("description") for field in fields)


def test_a_password_is_not_shown(monkeypatch):
    monkeypatch.setenv("TTA_STREAM__SASL_PASSWORD", "sekret")
    assert "sekret" not in env.load().model_dump_json()


@pytest.fixture
def told_again():
    """Each retired setting is told of once in a process."""
    retired._warn.cache_clear()


@pytest.mark.parametrize("name", env.RETIRED)
def test_a_retired_setting_is_no_error_but_a_line(monkeypatch, caplog, told_again, name):
    monkeypatch.setenv(name, "7")
    assert env.load() == env.load(policy="balanced")
    assert name not in env.env_names()
    [told] = caplog.messages
    assert told == f"{name} is no longer read: {env.RETIRED[name]}" and "\n" not in told


def test_a_retired_setting_of_a_policy_file_or_of_a_whole_group_is_a_line_too(
    tmp_path, monkeypatch, caplog, told_again
):
    (tmp_path / "mine.yaml").write_text("gate: {consecutive: 2, alpha: 0.02}\n")
    monkeypatch.setenv("TTA_SERVE", '{"tap_bytes": 70000, "port": 81}')
    found = named.policy(str(tmp_path / "mine.yaml")).settings()
    assert (found.gate.alpha, found.serve.port) == (0.02, 81)
    assert sorted(text.split()[0] for text in caplog.messages) == [
        "TTA_GATE__CONSECUTIVE",
        "TTA_SERVE__TAP_BYTES",
    ]


def test_what_is_said_to_hold_instead_of_a_retired_setting_does():
    assert "500 images" in env.RETIRED["TTA_GATE__ANCHOR_IMAGES"] and anchor_set.IMAGES == 500
    assert "1,000,000 inf" in env.RETIRED["TTA_LABELS__HORIZON_RECORDS"] and join.HORIZON_RECORDS == 1_000_000
    assert "32 MiB" in env.RETIRED["TTA_SERVE__TAP_BYTES"] and inference_log.CAPACITY_BYTES == 32 << 20
    pace = RolloutLimits()
    assert "one day" in env.RETIRED["TTA_SCHEDULE__COOLDOWN_MOST_S"]
    assert max(pace.trip(0.0) for _ in range(40)) == 86_400
