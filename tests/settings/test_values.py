"""Lists by comma, empty variables, service links, and names that become a path, a topic or part of a URL."""

from typing import get_args, get_origin

import pytest

from tta_agent.core.errors import ConfigError
from tta_agent.settings import env
from tta_agent.settings.schema import Settings


def leaves(wanted):
    """(group, name) of every setting whose type is wanted."""
    for group, field in Settings.model_fields.items():
        for name, leaf in getattr(field.annotation, "model_fields", {}).items():
            if wanted(leaf.annotation):
                yield group, name


def kinds(annotation):
    return {get_origin(one) or one for one in (annotation, *get_args(annotation))}


LISTS = list(leaves(lambda a: kinds(a) & {list, tuple}))
OBJECTS = list(leaves(lambda a: dict in kinds(a)))
OPTIONAL = list(leaves(lambda a: type(None) in get_args(a) and not kinds(a) & {list}))
TEXTS = {"freeze": ["Fri 16:00-Mon 06:00", "22:00-23:30"]}


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for name in env.env_names():
        monkeypatch.delenv(name, raising=False)


def variable(place):
    return "TTA_" + "__".join(place).upper()


def found(place, settings):
    return getattr(getattr(settings, place[0]), place[1])


def numeric(place):
    annotation = Settings.model_fields[place[0]].annotation.model_fields[place[1]].annotation
    return tuple in kinds(annotation)


def test_there_are_lists_objects_and_settings_that_may_be_none():
    assert len(LISTS) >= 7 and len(OBJECTS) >= 7 and len(OPTIONAL) >= 20


@pytest.mark.parametrize("place", LISTS, ids=variable)
def test_every_list_can_be_given_by_comma_and_as_json(monkeypatch, place):
    values = [3, 5] if numeric(place) else TEXTS.get(place[1], ["one", "two"])
    plain, quoted = ",".join(map(str, values)), str(values).replace("'", '"')
    for text in (plain, plain.replace(",", " , "), plain + ",", quoted):
        monkeypatch.setenv(variable(place), text)
        assert list(found(place, env.load())) == values, text
    single = str(values[0])
    monkeypatch.setenv(variable(place), single)
    assert list(found(place, env.load())) == values[:1]


@pytest.mark.parametrize("place", [*LISTS, *OBJECTS], ids=variable)
@pytest.mark.parametrize("text", ['["a"', "{bad", "[" * 100_000, '{"a": 1}', "{'a'}"])
def test_what_is_no_list_or_object_is_refused_in_one_line(monkeypatch, place, text):
    if place == ("stream", "kafka") and text == '{"a": 1}':
        return  # an object of options by name; which there are is known with the client
    monkeypatch.setenv(variable(place), text)
    with pytest.raises(ConfigError) as refused:
        env.load()
    told = str(refused.value)
    assert told.startswith(variable(place)) and len(told.splitlines()) == 1 and len(told) < 300
    assert "xpected" in told or "should be a valid dictionary" in told


def test_a_value_of_another_kind_in_a_list_is_named(monkeypatch):
    monkeypatch.setenv("TTA_MODEL__INPUT_SHAPE", "3,x")
    with pytest.raises(ConfigError, match=r"TTA_MODEL__INPUT_SHAPE='x': .*valid integer"):
        env.load()


@pytest.mark.parametrize("name", ["TTA_GATE", "TTA_MODEL"])
@pytest.mark.parametrize("text", ["x", "[1]", "{bad", "[" * 100_000])
def test_a_whole_group_that_is_no_object_is_refused_in_one_line(monkeypatch, name, text):
    monkeypatch.setenv(name, text)
    with pytest.raises(ConfigError, match=f"^{name}.*valid dictionary") as refused:
        env.load()
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("place", [place for place in LISTS if not numeric(place)], ids=variable)
def test_an_empty_variable_is_the_empty_list(monkeypatch, place):
    monkeypatch.setenv("TTA_POLICY", "tent-cifar")
    monkeypatch.setenv(variable(place), "")
    assert found(place, env.load()) == []


@pytest.mark.parametrize("place", OPTIONAL, ids=variable)
def test_an_empty_variable_says_none_where_there_is_a_none(monkeypatch, place):
    monkeypatch.setenv(variable(place), "")
    none = "" if place[1] == "dead_letter_topic" else None
    assert found(place, env.load()) == none


def test_none_wins_over_a_preset_and_an_empty_variable_of_another_setting_does_not_count(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("TTA_POLICY", "aggressive")
    monkeypatch.setenv("TTA_GATE__ALPHA", "")
    monkeypatch.setenv("TTA_MODE", "")
    assert (env.load().gate.alpha, env.load().mode) == (0.05, "shadow")
    monkeypatch.setenv("TTA_GATE__GATES", "")
    assert env.load().gate.gates == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TTA_AGENT_PORT", "tcp://10.96.0.12:8080"),
        ("TTA_AGENT_SERVICE_HOST", "10.96.0.12"),
        ("TTA_AGENT_SERVICE_PORT", "8080"),
        ("TTA_AGENT_SERVICE_PORT_HTTP", "8080"),
        ("TTA_AGENT_PORT_8080_TCP", "tcp://10.96.0.12:8080"),
        ("TTA_AGENT_PORT_8080_TCP_PROTO", "tcp"),
        ("TTA_AGENT_PORT_53_UDP_ADDR", "10.96.0.12"),
        ("TTA_PORT", "tcp://10.96.0.12:8080"),
        ("TTA_HTTP_PORT", "udp://10.96.0.12:8080"),
    ],
)
def test_variables_that_kubernetes_sets_for_a_service_are_left_alone(monkeypatch, name, value):
    before = env.load()
    monkeypatch.setenv(name, value)
    assert env.load() == before


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("TTA_HTTP_PORT", "8081", "did you mean TTA_HTTP__PORT?"),
        ("TTA_SERVE_PORT", "8080", "did you mean TTA_SERVE__PORT?"),
        ("TTA_SERVE__PRT", "tcp://10.96.0.12:8080", "did you mean TTA_SERVE__PORT?"),
        ("TTA_SERVE__MY_PORT", "tcp://10.96.0.12:8080", "did you mean TTA_SERVE__PORT?"),
        ("TTA_SERVE__PORT", "tcp://10.96.0.12:8080", "TTA_SERVE__PORT='tcp://10.96.0.12:8080'"),
    ],
)
def test_what_only_looks_like_one_is_refused(monkeypatch, name, value, message):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        env.load()


NAMES = [
    "TTA_MODEL__SERVED_AS", "TTA_STREAM__TOPIC", "TTA_STREAM__LABELS_TOPIC", "TTA_STREAM__DEAD_LETTER_TOPIC",
    "TTA_LABELS__REQUESTS_TOPIC",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", ["a/b", "../b", "..", ".", "a b", "a?b", "a#b", "a%2Fb", "a\nb", "x" * 300])
def test_a_name_that_is_no_part_of_a_path_or_url_is_refused(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as refused:
        env.load()
    told = str(refused.value)
    assert told.startswith(f"{name}=") and "expected a" in told and len(told.splitlines()) == 1


@pytest.mark.parametrize("name", NAMES)
def test_usual_names_pass(monkeypatch, name):
    monkeypatch.setenv(name, "Fraud-model_v2.1")
    env.load()
