"""Names of plugins, their options, and files are checked before a model is loaded, in one to three lines."""

import logging

import pytest

from tta_agent.assembly import preflight
from tta_agent.core import plugins
from tta_agent.core.errors import ConfigError
from tta_agent.settings import env, presets

HERE = "tests.assembly.test_preflight"


class Picky:
    """An adapter that a small net does not suit, whatever its options."""

    def __init__(self, model, *, speed=1.0):
        raise ValueError("a net of at least 100 layers is needed")


class Hungry:
    """An adapter that stumbles over a small net."""

    def __init__(self, model):
        self.stage = model.stages


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for name in env.env_names():
        monkeypatch.delenv(name, raising=False)


def check(monkeypatch, **environ):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    settings = env.load()
    preflight.check_plugins(settings)
    preflight.check_files(settings)


def refusal(monkeypatch, **environ):
    with pytest.raises(ConfigError) as refused:
        check(monkeypatch, **environ)
    assert len(str(refused.value).splitlines()) <= 3
    return str(refused.value)


@pytest.mark.parametrize("name", presets.presets())
def test_every_preset_passes_and_says_nothing(monkeypatch, name, caplog):
    check(monkeypatch, TTA_POLICY=name)
    assert not caplog.messages and logging.root.manager.disable == 0


@pytest.mark.parametrize("name", plugins.available("adapters"))
def test_every_adapter_passes_and_an_option_that_it_does_not_take_is_refused(monkeypatch, name):
    check(monkeypatch, TTA_ADAPT__METHOD=name)
    told = refusal(monkeypatch, TTA_ADAPT__METHOD=name, TTA_ADAPT__OPTIONS=f'{{"{name}": {{"speeed": 1}}}}')
    assert told.startswith("TTA_ADAPT__OPTIONS: ") and "speeed" in told


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"TTA_ADAPT__METHOD": "tnet"}, "TTA_ADAPT__METHOD: no adapter is called 'tnet'; did you mean tent?"),
        ({"TTA_ADAPT__METHOD": "no.where:Adapter"}, "TTA_ADAPT__METHOD: cannot import 'no.where:Adapter'"),
        ({"TTA_ADAPT__METHOD": "tnet", "TTA_MODE": "observe"}, "did you mean tent?"),
        ({"TTA_ADAPT__OPTIONS": '{"tnet": {}}'}, "TTA_ADAPT__OPTIONS: no adapter is called 'tnet'; did you mean"),
        ({"TTA_ADAPT__OPTIONS": '{"tent": {"lr": "fast"}}'}, "TTA_ADAPT__OPTIONS: adapter 'tent' with options"),
        ({"TTA_ADAPT__OPTIONS": '{"tent": {"momentum": 7}}'}, "momentum 7 is not a share"),
        ({"TTA_SELECT__SELECTORS": "entropi"}, "TTA_SELECT__SELECTORS: no selector is called 'entropi'"),
        ({"TTA_SELECT__SCREEN": "plausibel"}, "TTA_SELECT__SCREEN: no selector is called 'plausibel'"),
        ({"TTA_SELECT__OPTIONS": '{"entropi": {}}'}, "TTA_SELECT__OPTIONS: no selector is called 'entropi'"),
        ({"TTA_SELECT__OPTIONS": '{"entropy": {"m": 1}}'}, "selector 'entropy' with options"),
        ({"TTA_SCHEDULE__SCHEDULES": "monthly"}, "TTA_SCHEDULE__SCHEDULES: no schedule is called 'monthly'"),
        ({"TTA_SCHEDULE__OPTIONS": '{"monthly": {}}'}, "TTA_SCHEDULE__OPTIONS: no schedule is called"),
        ({"TTA_GATE__GATES": "certificate,colapse"}, "TTA_GATE__GATES: no gate is called 'colapse'; did you mean"),
        ({"TTA_GATE__GATES": "collapse"}, "TTA_GATE__GATES names no proof"),
        ({"TTA_GATE__GATES": ""}, "TTA_GATE__GATES names no proof"),
        ({"TTA_GATE__OPTIONS": '{"colapse": {}}'}, "TTA_GATE__OPTIONS: no gate is called 'colapse'"),
        ({"TTA_GATE__OPTIONS": '{"collapse": {"ration": 1}}'}, "gate 'collapse' with options"),
        ({"TTA_GATE__FREEZE": "Fryday"}, "Fryday"),
        ({"TTA_WATCH__DETECTOR": "block_mean"}, "TTA_WATCH__DETECTOR: no detector is called 'block_mean'"),
        ({"TTA_WATCH__OPTIONS": '{"block_mean": {}}'}, "TTA_WATCH__OPTIONS: no detector is called"),
        ({"TTA_SWAP__DRIVER": "oipp"}, "TTA_SWAP__DRIVER: no driver is called 'oipp'"),
        ({"TTA_SWAP__OPTIONS": '{"oip": {"speed": 1}}'}, "driver 'oip' with options"),
        ({"TTA_SWAP__URL": "localhost:8080"}, "TTA_SWAP__URL=localhost:8080: expected http://host:port"),
        ({"TTA_STREAM__CODEC": "cloudevent"}, "TTA_STREAM__CODEC: no codec is called 'cloudevent'"),
        ({"TTA_STREAM__OPTIONS": '{"cloudevent": {}}'}, "TTA_STREAM__OPTIONS: no codec is called 'cloudevent'"),
    ],
)  # fmt: skip
def test_what_does_not_exist_is_named_with_its_variable(monkeypatch, environ, message):
    assert message in refusal(monkeypatch, **environ)


@pytest.mark.parametrize("name", ["Picky", "Hungry"])
def test_an_adapter_that_a_small_net_does_not_suit_is_left_to_the_model(monkeypatch, name):
    check(monkeypatch, TTA_ADAPT__METHOD=f"{HERE}:{name}")


FILES = ["TTA_MODEL__WEIGHTS", "TTA_MODEL__ONNX", "TTA_STREAM__SSL_CAFILE", "TTA_STREAM__SASL_PASSWORD_FILE"]
DATA = ["TTA_MODEL__SOURCE_DATA", "TTA_GATE__ANCHOR"]
FOLDERS = ["TTA_STORE__PATH", "TTA_STORE__PROOFS"]


@pytest.mark.parametrize("name", [*FILES, *DATA])
def test_a_file_that_is_missing_is_named(monkeypatch, tmp_path, name):
    path = tmp_path / "missing"
    assert refusal(monkeypatch, **{name: str(path)}).startswith(f"{name}={path}: ")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert refusal(monkeypatch, **{name: str(tmp_path / "loop")}).startswith(name)
    if name in FILES:
        assert refusal(monkeypatch, **{name: str(tmp_path)}).endswith("no such file")


@pytest.mark.parametrize("name", FOLDERS)
def test_a_file_where_a_folder_is_needed_is_named(monkeypatch, tmp_path, name):
    check(monkeypatch, **{name: str(tmp_path / "new" / "deep")})
    assert not (tmp_path / "new").exists(), "a check makes nothing"
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "inside"):
        assert f"{tmp_path / 'file'} is no folder" in refusal(monkeypatch, **{name: str(path)})


def test_certificates_that_are_none_are_named(monkeypatch, tmp_path):
    (tmp_path / "ca.pem").write_text("no certificate")
    told = refusal(monkeypatch, TTA_STREAM__SSL_CAFILE=str(tmp_path / "ca.pem"))
    assert told.endswith("ca.pem: expected certificates as PEM")


def test_every_setting_that_names_a_file_is_checked():
    paths = [
        f"TTA_{group}__{leaf}".upper()
        for group, field in env.Settings.model_fields.items()
        for leaf, inner in getattr(field.annotation, "model_fields", {}).items()
        if "Path" in str(inner.annotation)
    ]
    assert sorted(paths) == sorted([*FILES, *DATA, *FOLDERS])
