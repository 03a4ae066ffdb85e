"""Settings: precedence, presets, and errors that name the nearest valid choice."""

import json

import pytest

from tta_agent.core.errors import ConfigError
from tta_agent.settings import env, presets
from tta_agent.settings.schema import Settings


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
