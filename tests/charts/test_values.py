"""Values of the chart: every setting can be given, a typo is named, and what the settings reject Helm rejects too."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from charts import generate
from tests.conftest import require_or_skip
from tests.parts.kafka.broker import REPOSITORY
from tests.parts.kube import helm, tools
from tests.settings.test_every_setting import ROWS
from tta_agent.core.errors import ConfigError
from tta_agent.settings import env
from tta_agent.settings.schema import Settings

WAYS = ("name", "factory", "onnx")  # of which the chart wants one
SECRETS = {
    "TTA_STREAM__SASL_PASSWORD", "TTA_SWAP__TOKEN", "TTA_SERVE__TOKEN", "TTA_HTTP__TOKEN", "TTA_RECEIVER__TOKEN",
    "TTA_HTTP__CONFIRM_URL",
    "TTA_HTTP__EVENT_URL", "TTA_HTTP__ROLLBACK_URL",
}  # fmt: skip
HOSTILE: tuple[Any, ...] = (
    "no such thing", "a/b", "..", "x" * 300, "$(HOME)", -1, 0, 0.5, 1, 7, 300_000_000, True, [], ["a"], [1, 2], [{}],
    {}, {"a": 1}, {"a": {"b": 1}},
)  # fmt: skip


needs_helm = pytest.mark.usefixtures("helm_is_here")


@pytest.fixture
def helm_is_here() -> None:
    require_or_skip("helm", tools.unavailable("helm"))


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in env.env_names():
        monkeypatch.delenv(name, raising=False)


def loaded(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> dict[str, Any]:
    """All settings as the agent reads them from these variables alone."""
    with monkeypatch.context() as patch:
        for name, text in variables.items():
            if name.startswith("TTA_"):
                patch.setenv(name, text)
        return env.load().model_dump(mode="json")


def rows(monkeypatch: pytest.MonkeyPatch, way: str) -> tuple[dict[str, Any], dict[str, str]]:
    """A value that is not the default for each setting that is no secret: by group, and as variables."""
    values: dict[str, Any] = {}
    variables = {}
    for row in ROWS:
        group, _, leaf = row.name.partition(".")
        if row.variable in SECRETS or (group == "model" and leaf in WAYS and leaf != way):
            continue
        variables[row.variable] = row.value.replace("{folder}", "/there")
        found = loaded(monkeypatch, {row.variable: variables[row.variable]})[group]
        values |= {group: {**values.get(group, {}), leaf: found[leaf]} if leaf else found}
    return values, variables


def test_the_schema_and_the_dashboard_are_those_of_the_code() -> None:
    assert all(path.read_text() == text for path, text in generate.files(REPOSITORY).items()), (
        "run `make docs`"
    )


def test_values_can_be_read_in_a_minute() -> None:
    assert len((helm.CHART / "values.yaml").read_text().splitlines()) < 150


def test_the_chart_is_of_this_version() -> None:
    about = yaml.safe_load((helm.CHART / "Chart.yaml").read_text())
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert about["appVersion"] == about["version"] == project["version"]


def test_every_setting_that_is_no_secret_has_a_value_of_its_name() -> None:
    schema = generate.values_schema()
    listed = set()
    for group, about in schema["properties"]["settings"]["properties"].items():
        inner = schema["definitions"][about["$ref"].split("/")[-1]]["properties"] if "$ref" in about else {}
        listed |= {f"TTA_{group}__{leaf}".upper() for leaf in inner} or {f"TTA_{group}".upper()}
    assert listed == {*env.env_names()} - SECRETS


@needs_helm
@pytest.mark.parametrize("way", WAYS)
def test_each_setting_arrives_as_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    given, variables = rows(monkeypatch, way)
    values = {"settings": given, "existingSecret": "all-secrets"}
    found = helm.one(helm.manifests(helm.render(values=values, folder=tmp_path)), "Deployment")
    agent = helm.containers(found)["tta-agent"]
    assert loaded(monkeypatch, helm.variables(agent)) == loaded(monkeypatch, variables)
    assert {name for name in variables if name not in helm.variables(agent)} == set()
    assert agent["envFrom"] == [{"secretRef": {"name": "all-secrets"}}]


def _of(got: Any, wanted: Any) -> Any:
    return {name: got[name] for name in wanted} if isinstance(wanted, dict) else got


@needs_helm
@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: json.dumps(value)[:20])
def test_helm_rejects_what_the_settings_reject(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: Any
) -> None:
    text = value if isinstance(value, str) else json.dumps(value)
    bad = set()
    for place in places():
        variable = "TTA_" + "__".join(place).upper()
        if variable not in SECRETS and _rejected(monkeypatch, variable, text):
            bad.add("/settings/" + "/".join(place))
    with pytest.raises(helm.Refused) as refused:
        helm.render(values={"settings": everywhere(value)}, folder=tmp_path)
    assert bad - {*re.findall(r"at '(/settings[^']*)'", _whole(str(refused.value)))} == set()


def places() -> Iterator[tuple[str, ...]]:
    """Group and name of each setting."""
    for group, about in Settings.model_fields.items():
        leaves = getattr(about.annotation, "model_fields", {})
        yield from ((group, leaf) for leaf in leaves) if leaves else [(group,)]


def everywhere(value: Any) -> dict[str, Any]:
    """The value in the place of every setting that is no secret."""
    values: dict[str, Any] = {}
    for place in places():
        if "TTA_" + "__".join(place).upper() not in SECRETS:
            values |= {place[0]: {**values.get(place[0], {}), place[1]: value} if len(place) > 1 else value}
    return values


def _rejected(monkeypatch: pytest.MonkeyPatch, variable: str, text: str) -> bool:
    try:
        loaded(monkeypatch, {variable: text})
    except ConfigError:
        return True
    return False


def _whole(message: str) -> str:
    """Each place of an error inside a value counts for the setting, too."""
    return re.sub(r"at '(/settings/[a-z_]+/[a-z_]+)/[^']*'", r"at '\1'", message)


@needs_helm
@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"settings": {"stream": {"topik": "x"}}}, "topik"),
        ({"settings": {"straem": {"topic": "x"}}}, "straem"),
        ({"setings": {}}, "setings"),
        ({"image": {"repo": "x"}}, "repo"),
        ({"settings": {"http": {"token": "secret"}}}, "token"),
        ({"settings": {"stream": {"sasl_password": "secret"}}}, "sasl_password"),
        ({"extraEnv": [{"name": "TTA_MODE", "value": "auto"}]}, "/extraEnv/0/name"),
        ({"settings": {"mode": "automatic"}}, "'observe', 'shadow', 'approve', 'auto'"),
        ({"gpu": {"mode": "some"}}, "'none', 'device-plugin', 'time-slicing', 'dra'"),
        ({"terminationGracePeriodSeconds": 5}, "/terminationGracePeriodSeconds"),
        ({"runAsUser": 0}, "/runAsUser"),
        ({"settings": {"stream": {"kafka": {"ssl_password": "secret"}}}}, "ssl_password"),
        ({"settings": {"stream": {"kafka": {"sasl_plain_password": "secret"}}}}, "sasl_plain_password"),
    ],
)
def test_a_typo_is_rejected_by_name(tmp_path: Path, given: dict[str, Any], named: str) -> None:
    with pytest.raises(helm.Refused, match=re.escape(named)):
        helm.render(case="central", values=given, folder=tmp_path)


@needs_helm
@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"settings": {"model": {"onnx": None}}}, "exactly one of name, factory and onnx, got none"),
        (
            {"settings": {"model": {"name": "resnet18"}}},
            "exactly one of name, factory and onnx, got name, onnx",
        ),
        ({"gpu": {"mode": "time-slicing"}}, "set settings.adapt.memory"),
        ({"extraEnv": [{"name": "HOME", "value": "/"}]}, "the chart sets HOME itself"),
        ({"extraEnv": [{"name": "OTEL_METRICS_EXPORTER", "value": "otlp"}]}, "set metrics.enabled=false"),
        ({"mode": "patch", "gpu": {"mode": "dra"}}, "set gpu.existingClaimTemplate"),
        ({"replicas": 2}, "set store.accessModes=[ReadWriteMany], or replicas=1"),
        ({"settings": {"http": {"host": "0.0.0.0", "port": 8090}}}, "a Secret with the key TTA_HTTP__TOKEN"),
        ({"settings": {"serve": {"host": "0.0.0.0"}}}, "a Secret with the key TTA_SERVE__TOKEN"),
    ],
)
def test_values_that_do_not_go_together_are_named(tmp_path: Path, given: dict[str, Any], told: str) -> None:
    with pytest.raises(helm.Refused, match=re.escape(told)):
        helm.render(case="central", values=given, folder=tmp_path)


@needs_helm
def test_numbers_lists_and_texts_of_the_kubelet_keep_their_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {
        "stream": {"queue_bytes": 1_000_000_000_000, "topic": "yes"},
        "adapt": {"options": {"tent": {"lr": 1e-7}}},
    }
    given |= {"model": {"onnx": "/models/$(HOME)/m.onnx"}, "watch": {"follow_domain": False}}
    found = helm.one(helm.manifests(helm.render(values={"settings": given}, folder=tmp_path)), "Deployment")
    container = helm.containers(found)["tta-agent"]
    raw = {each["name"]: each.get("value") for each in container["env"]}
    assert raw["TTA_MODEL__ONNX"] == "/models/$$(HOME)/m.onnx"  # which the kubelet turns into one $
    got = loaded(monkeypatch, helm.variables(container))
    assert {group: _of(got[group], value) for group, value in given.items()} == given


DEEP = {
    "first": {
        "text": "$(HOME) \"quoted\" 'too' ${Y} {{ .Values }} # no remark",
        "numbers": [1, 2.5, 1e-7, 64_000_000],
        "map": {"of": {"maps": [{"on": True}, {"off": False}], "1": "yes", "empty": ""}},
    },
    "second_one": {},
}


@needs_helm
def test_maps_arrive_whole_however_deep_and_a_secret_adds_to_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = [place for place in places() if isinstance(default(place), dict)]
    assert len(maps) >= 7 and ("stream", "kafka") in maps
    given: dict[str, Any] = {"model": {"onnx": "/models/m.onnx"}}
    for group, leaf in maps:
        given[group] = {**given.get(group, {}), leaf: DEEP}
    found = helm.one(helm.manifests(helm.render(values={"settings": given}, folder=tmp_path)), "Deployment")
    variables = helm.variables(helm.containers(found)["tta-agent"])
    got = loaded(monkeypatch, {**variables, "TTA_STREAM__KAFKA__SSL_PASSWORD": "of a Secret"})
    assert got["stream"]["kafka"].pop("ssl_password") == "of a Secret"
    assert {place: got[place[0]][place[1]] for place in maps} == dict.fromkeys(maps, DEEP)


def default(place: tuple[str, ...]) -> Any:
    """What a setting is where nothing is given."""
    found = Settings.model_construct().model_dump()
    for name in place:
        found = found[name]
    return found
