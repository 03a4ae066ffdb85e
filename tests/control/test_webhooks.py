"""Webhooks: asked and told in the background, whatever they do."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.parts.serving import eventually
from tta_agent.control import webhooks as module
from tta_agent.control.webhooks import Hooks


class Receiver:
    """Answers with the statuses it is told to, the last one again and again; can be made to block."""

    def __init__(self):
        self.statuses, self.got = [200], []
        self.open = threading.Event()
        self.open.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.open.wait(10)
                outer.got.append((self.path, json.loads(body)))
                self.send_response(outer.statuses.pop(0) if len(outer.statuses) > 1 else outer.statuses[0])
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def receiver(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    found = Receiver()
    yield found
    found.open.set()
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture
def make():
    made = []

    def hooks(**urls):
        given_up = []
        count = {"dropped": lambda *what: given_up.append(what)}
        made.append(Hooks(**{"ask_every_s": 0.02, "back_off_s": 0.01, "timeout_s": 2.0, **count, **urls}))
        made[-1].given_up = given_up
        return made[-1]

    yield hooks
    for one in made:
        one.close()


@pytest.mark.parametrize(("status", "answer"), [(200, True), (403, False)])
def test_yes_and_no(receiver, make, status, answer):
    receiver.statuses = [status]
    hooks = make(confirm_url=receiver.url)
    eventually(lambda: hooks.confirm({"version": 3, "proof": "certified"}) is answer)
    assert receiver.got[0] == ("/hook", {"version": 3, "proof": "certified"})
    asked = len(receiver.got)
    for _ in range(5):
        assert hooks.confirm({"version": 3}) is answer
    assert len(receiver.got) == asked, "a yes or no is final"


def test_anything_else_is_not_yet_and_asked_again(receiver, make):
    receiver.statuses = [202, 500, 404, 200]
    hooks = make(confirm_url=receiver.url)
    assert hooks.confirm({"version": 3}) is None
    eventually(lambda: hooks.confirm({"version": 3}) is True)
    assert len(receiver.got) == 4


def test_the_answer_is_about_one_version_only(receiver, make):
    hooks = make(confirm_url=receiver.url)
    eventually(lambda: hooks.confirm({"version": 3}) is True)
    receiver.statuses = [403]
    assert hooks.confirm({"version": 4}) is None
    eventually(lambda: hooks.confirm({"version": 4}) is False)


def test_an_answer_about_a_version_that_is_gone_is_dropped(receiver, make):
    receiver.open.clear()
    hooks = make(confirm_url=receiver.url, ask_every_s=60.0)
    hooks.confirm({"version": 3})
    hooks.confirm({"version": 4})
    receiver.open.set()
    eventually(lambda: len(receiver.got) >= 1)
    hooks.close()
    assert hooks.confirm({"version": 4}) is None


def test_nobody_waits_for_a_webhook_that_hangs(receiver, make):
    receiver.open.clear()
    hooks = make(confirm_url=receiver.url, event_url=receiver.url, rollback_url=receiver.url)
    for i in range(50):
        assert hooks.confirm({"version": 3}) is None
        assert hooks.rollback({"version": 2}) is False
        hooks.event("swap", {"version": i})
    assert receiver.got == [], "all of this happened while not one request was answered"
    receiver.open.set()


def test_it_may_ask_to_take_a_version_back(receiver, make):
    receiver.statuses = [204, 403, 200]
    hooks = make(rollback_url=receiver.url)
    eventually(lambda: hooks.rollback({"version": 2}) is True)
    assert len(receiver.got) == 3
    assert hooks.rollback({"version": 3}) is False


def test_events_are_told_in_order_and_tried_again(receiver, make):
    receiver.statuses = [503, 503, 200]
    hooks = make(event_url=receiver.url)
    for i in range(3):
        hooks.event("verdict", {"version": i})
    hooks.close()
    assert [body["version"] for _, body in receiver.got] == [0, 0, 0, 1, 2]
    assert receiver.got[0][1]["event"] == "verdict"
    assert hooks.given_up == []


@pytest.mark.parametrize(("status", "tries"), [(500, 3), (429, 3), (400, 1)])
def test_an_event_that_is_refused_is_counted(receiver, make, status, tries):
    receiver.statuses = [status]
    hooks = make(event_url=receiver.url)
    hooks.event("swap", {})
    eventually(lambda: hooks.given_up == [("webhook_event", 1)])
    assert len(receiver.got) == tries


def test_the_oldest_events_give_way(receiver, make, monkeypatch):
    monkeypatch.setattr(module, "WAITING", 10)
    receiver.open.clear()
    hooks = make(event_url=receiver.url)
    hooks.event("swap", {"version": -1})
    eventually(lambda: not hooks._events._waiting)  # the first is on its way
    for i in range(25):
        hooks.event("swap", {"version": i})
    assert hooks.given_up == [("webhook_event", 1)] * 15
    receiver.open.set()
    hooks.close()
    assert [body["version"] for _, body in receiver.got] == [-1, *range(15, 25)]


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x", "http://no such host/", "nonsense"])
def test_a_webhook_that_is_not_there_is_not_yet(make, url):
    hooks = make(confirm_url=url, event_url=url, rollback_url=url)
    hooks.event("swap", {"when": object()})
    assert hooks.confirm({"version": 1}) is None
    eventually(lambda: hooks.given_up == [("webhook_event", 1)])
    assert hooks.confirm({"version": 1}) is None
    assert hooks.rollback({"version": 1}) is False


def test_without_urls_nothing_happens():
    given_up = []
    hooks = Hooks(dropped=lambda *what: given_up.append(what))
    assert hooks.confirm({"version": 1}) is None
    assert hooks.rollback({"version": 1}) is False
    hooks.event("swap", {})
    assert given_up == []
    hooks.close()
    hooks.close()
