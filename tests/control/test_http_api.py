"""The agent's own interface, over real HTTP."""

import json
import socket
import threading

import httpx
import pytest

from tta_agent.control.commands import KINDS, Command, CommandInbox
from tta_agent.control.http.api import make_app
from tta_agent.control.http.server import serve_in_thread
from tta_agent.core.errors import ConfigError, RegistryError
from tta_agent.core.types import Label
from tta_agent.labels.join import LabelJoiner
from tta_agent.labels.store import read_counts
from tta_agent.telemetry.event_log import EventLog

TOKEN = "a-secret"


class Versions:
    """A registry of three versions."""

    def rows(self):
        return [{"version": n, "alias": "", "outcome": "certified"} for n in range(3)]

    def manifest(self, number):
        if number == 2:
            raise RegistryError("version 2 is damaged")
        return {"number": number, "rounds": 8}

    def verdict(self, number):
        return {"outcome": "certified", "findings": [{"gate": "certificate", "value": float("inf")}]}

    def aliases(self):
        return {"source": 0, "serving": 1, "candidate": None}


class World:
    def __init__(self, folder):
        self.folder, self.numbers = folder, {"ready": True, "serving": 1, "awaiting": 2}
        self.server = None

    def start(self, **options):
        known = {"status": lambda: self.numbers, "labels": lambda: read_counts(self.folder / "labels.db")}
        app = make_app(self.folder, Versions(), **known | options)
        self.server = serve_in_thread(app, "127.0.0.1", 0)
        self.http = httpx.Client(base_url=self.server.url, timeout=30, trust_env=False)
        return self.http

    def commands(self):
        return [(c.kind, c.number, c.by, c.reason) for c in CommandInbox(self.folder).take()]


@pytest.fixture
def world(tmp_path):
    found = World(tmp_path)
    yield found
    if found.server:
        found.http.close()
        found.server.close()


def test_alive_and_ready(world):
    http = world.start()
    assert http.get("/healthz").json() == {"alive": True}
    assert http.get("/readyz").status_code == 200
    world.numbers["ready"] = False
    assert http.get("/readyz").status_code == 503
    assert http.get("/healthz").status_code == 200


def test_the_file_of_an_agent_that_has_ended_does_not_make_ready(world):
    (world.folder / "status.json").write_text('{"time": 1.0, "ready": true}')
    http = world.start(status=None)
    assert http.get("/readyz").status_code == 503
    EventLog(world.folder).status(ready=True)
    assert http.get("/readyz").status_code == 200


def test_status_says_what_waits_and_what_is_frozen(world):
    http = world.start()
    world.numbers["loss"] = float("nan")
    found = http.get("/v1/status").json()
    assert (found["serving"], found["awaiting"], found["frozen"], found["loss"]) == (1, 2, None, None)
    CommandInbox(world.folder).put(Command("freeze", by="anna"))
    assert http.get("/v1/status").json()["frozen"] == "frozen by anna"


def test_versions_by_number_and_alias(world):
    http = world.start()
    assert [row["version"] for row in http.get("/v1/versions").json()["versions"]] == [0, 1, 2]
    by_alias, by_number = http.get("/v1/versions/serving").json(), http.get("/v1/versions/1").json()
    assert by_alias == by_number
    assert (by_alias["version"], by_alias["aliases"], by_alias["manifest"]["rounds"]) == (1, ["serving"], 8)
    assert by_alias["verdict"]["findings"][0]["value"] is None


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/v1/versions/9", 404, "there are 0 to 2"),
        ("/v1/versions/servng", 404, "did you mean serving"),
        ("/v1/versions/candidate", 404, "valid: serving, source"),
        ("/v1/versions/2", 404, "version 2 is damaged"),
        ("/v1/events?limit=many", 400, "whole number from 1"),
        ("/v1/events?limit=0", 400, "whole number from 1"),
        ("/v1/nothing", 404, "/v1/nothing"),
        ("/v1/approve", 405, "GET /v1/approve"),
    ],
)
def test_what_cannot_be_answered_is_a_problem_that_teaches(world, path, status, words):
    found = world.start().get(path)
    assert found.status_code == found.json()["status"] == status
    assert found.headers["content-type"] == "application/problem+json"
    assert words in found.json()["detail"]


def test_labels_by_version(world):
    http = world.start()
    assert http.get("/v1/labels").json() == {"counts": {}, "versions": {}}
    store = LabelJoiner(world.folder / "labels.db")
    store.arrive(Label("nobody", 1, 1.0))
    store._count("matched", 3)
    store.flush()
    assert http.get("/v1/labels").json()["versions"]["3"]["matched"] == 1
    store.close()


def test_an_agent_that_counts_no_labels_says_so(world):
    assert world.start(labels=None).get("/v1/labels").status_code == 404


def test_the_newest_events(world):
    http = world.start()
    assert http.get("/v1/events").json() == {"events": []}
    journal = EventLog(world.folder)
    for i in range(20):
        journal.event("swap", version=i)
    with (world.folder / "events.jsonl").open("a") as file:
        file.write('{"half": ')
    found = http.get("/v1/events", params={"limit": 3}).json()["events"]
    assert [event["version"] for event in found] == [17, 18, 19]


@pytest.mark.parametrize("kind", KINDS)
def test_commands_reach_the_inbox(world, kind):
    body = {"by": "anna", "reason": "why not", **({"version": 2} if kind in ("approve", "reject") else {})}
    found = world.start().post(f"/v1/{kind}", json=body)
    assert found.status_code == 202
    assert (found.json()["kind"], found.json()["by"]) == (kind, "anna")
    assert world.commands() == [(kind, body.get("version"), "anna", "why not")]


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("approve", {"version": 1}, 409, "version 2 does"),
        ("approve", {}, 400, "needs the number"),
        ("approve", {"version": "2"}, 400, "whole number"),
        ("approve", {"verson": 2}, 400, "did you mean version"),
        ("approve", [2], 400, "no JSON object"),
        ("rollback", {"version": 7}, 404, "there are 0 to 2"),
        ("reset", {"by": "x" * 1000}, 400, "500 characters"),
        ("reset", {"reason": "x" * 70_000}, 413, "larger than"),
        ("aprove", {}, 404, "/v1/aprove"),
    ],
)
def test_a_command_that_makes_no_sense_is_refused(world, path, body, status, words):
    found = world.start().post(f"/v1/{path}", json=body)
    assert found.status_code == status, found.text
    assert words in found.json()["detail"]
    assert world.commands() == []


def test_nothing_to_approve(world):
    world.numbers["awaiting"] = None
    found = world.start().post("/v1/approve", json={"version": 2})
    assert (found.status_code, found.json()["awaiting"]) == (409, None)


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401),
        ("Basic abc", 401),
        ("Bearer", 401),
        ("Bearer wrong", 403),
        ("Bearer gehëim", 403),
        (f"Bearer {TOKEN}", 202),
    ],
)
def test_commands_need_the_token_where_there_is_one(world, header, status):
    http = world.start(token=TOKEN)
    headers = {} if header is None else {"authorization": header.encode()}
    found = http.post("/v1/reset", json={}, headers=headers)
    assert found.status_code == status
    assert ("www-authenticate" in found.headers) == (status == 401)
    assert len(world.commands()) == (status == 202)
    assert http.get("/v1/status").status_code == 200, "looking is free"


def test_a_page_in_a_browser_cannot_command(world):
    http = world.start()
    form = http.post("/v1/reset", content=b"{}", headers={"content-type": "text/plain"})
    rebound = http.post("/v1/reset", json={}, headers={"host": "evil.example"})
    assert (form.status_code, rebound.status_code) == (415, 403)
    assert world.commands() == []


def test_others_may_not_command_without_a_token(tmp_path):
    for host in ("0.0.0.0", "192.168.0.1", "agent.example", "::"):
        with pytest.raises(ConfigError, match="TTA_HTTP__TOKEN"):
            serve_in_thread(make_app(tmp_path, Versions()), host)


def test_a_port_that_is_taken_is_said(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ConfigError, match="TTA_HTTP__PORT"):
            serve_in_thread(make_app(tmp_path, Versions()), "127.0.0.1", other.getsockname()[1])


def test_it_ends_and_frees_its_port(tmp_path):
    before = threading.active_count()
    first = serve_in_thread(make_app(tmp_path, Versions()))
    assert httpx.get(f"{first.url}/healthz", trust_env=False).json()["alive"]
    first.close()
    first.close()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{first.url}/healthz", trust_env=False)
    assert not [t for t in threading.enumerate() if t.name == "tta-http"]
    again = serve_in_thread(make_app(tmp_path, Versions(), token=TOKEN), "127.0.0.1", first.port)
    again.close()
    assert threading.active_count() <= before + 1


def test_a_failure_inside_is_answered(world):
    (world.folder / "labels.db").write_bytes(b"damaged" * 1000)
    found = world.start().get("/v1/labels")
    assert found.status_code == 500
    assert "move it" in json.loads(found.text)["detail"]


def test_metrics_on_the_same_port(world):
    http = world.start(metrics=lambda: b"tta_swaps_total 1.0\n")
    answer = http.get("/metrics")
    assert (answer.status_code, answer.text) == (200, "tta_swaps_total 1.0\n")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")


def test_metrics_that_are_not_kept_say_why(world):
    answer = world.start().get("/metrics")
    assert answer.status_code == 404 and "OTEL_METRICS_EXPORTER=none" in answer.json()["detail"]
