"""Labels that are asked for: disagreements first, paced over the day, each id and entity once."""

import json

import numpy as np
import pytest

from tests.parts.serving import FakeProducer
from tta_agent.core.errors import StreamError
from tta_agent.core.types import Record
from tta_agent.labels.requests import DAY_S, LabelRequester, drawn, to_file, to_topic
from tta_agent.stream.batcher import held_out

X = np.zeros((1, 1, 1), np.float32)


def record(name, *, key=None, time_s=0.0):
    return Record(str(name), time_s, X, None, 3, key or str(name), None, "t", 0, 0)


def asks(**options):
    made = []
    return LabelRequester(made.extend, **{"per_day": 240, "bucket_s": 0.0, "uniform": 0.0, **options}), made


def play(requests, hours, per_hour=1000, differ=1.0):
    rng = np.random.default_rng(0)
    for hour in range(hours):
        for part in range(10):
            names = [f"{hour}-{part}-{i}" for i in range(per_hour // 10)]
            other = (rng.random(len(names)) < differ).astype(int).tolist()
            now_s = 1e6 + hour * 3600 + part * 360
            requests.consider([record(n) for n in names], [0] * len(names), other, now_s)


def test_disagreements_come_before_the_uniform_sample():
    requests, made = asks(uniform=1.0)
    names = [f"a{i}" for i in range(50)]
    requests.consider([record(n) for n in names], [0] * 50, [int(i >= 44) for i in range(50)], 1e6)
    assert [(m.id, m.reason) for m in made[:6]] == [(f"a{i}", "disagreement") for i in range(44, 50)]
    assert {m.reason for m in made[6:]} <= {"uniform"}
    first = made[0]
    assert (first.ts, first.serving, first.candidate, first.version) == (1e6, 0, 1, 3)


def test_the_uniform_sample_leaves_tokens_for_disagreements():
    requests, made = asks(uniform=1.0)
    requests.consider([record(i) for i in range(100)], [0] * 100, [0] * 100, 1e6)
    quiet = len(made)
    assert 1 <= quiet <= 30
    requests.consider([record(f"d{i}") for i in range(100)], [0] * 100, [1] * 100, 1e6)
    assert len(made) - quiet >= 30


def test_the_first_minute_cannot_spend_the_day():
    requests, made = asks()
    requests.consider([record(i) for i in range(5000)], [0] * 5000, [1] * 5000, 1e6)
    assert len(made) == 60
    play(requests, 12)
    assert 160 <= len(made) <= 181


def test_never_more_than_the_budget_in_any_24_hours():
    requests, made = asks(per_day=50)
    play(requests, 60)
    times = np.array([m.ts for m in made])
    assert max(((times >= t) & (times < t + DAY_S)).sum() for t in times) <= 50
    assert len(made) >= 100


def test_each_id_and_each_entity_in_a_stretch_of_time_once():
    requests, made = asks(bucket_s=60.0, per_day=2400)
    same = [record(i, key="camera", time_s=float(i)) for i in range(50)]
    requests.consider(same, [0] * 50, [1] * 50, 1e6)
    assert [m.id for m in made] == ["0"]
    requests.consider([same[0], record("b", key="camera", time_s=61.0)], [0, 0], [1, 1], 1e6)
    assert [m.id for m in made] == ["0", "b"]


def test_the_uniform_sample_has_its_share_and_does_not_depend_on_who_is_held_out():
    names = [str(i) for i in range(40_000)]
    assert 0.008 < np.mean([drawn(name, 0.01) for name in names]) < 0.012
    held = [drawn(name, 0.01) for name in names if held_out(name, 0.2)]
    assert 0.007 < np.mean(held) < 0.013


def test_without_a_candidate_only_the_uniform_sample_is_asked_for():
    requests, made = asks(uniform=1.0)
    requests.consider([record(1)], [2], [None], 1e6)
    assert [(m.reason, m.serving, m.candidate) for m in made] == [("uniform", 2, None)]


def test_a_budget_of_nothing_asks_for_nothing():
    requests, made = asks(per_day=0, uniform=1.0)
    requests.consider([record(1)], [0], [1], 1e6)
    assert not made


def test_a_restart_spends_no_budget_twice():
    requests, made = asks()
    requests.consider([record(i) for i in range(100)], [0] * 100, [1] * 100, 1e6)
    again, more = asks()
    again.load_state_dict(json.loads(json.dumps(requests.state_dict())))
    again.consider([record(i) for i in range(100)], [0] * 100, [1] * 100, 1e6)
    assert len(made) == 60 and not more
    again.consider([record(0), record("new")], [0, 0], [1, 1], 1e6 + 360)
    assert [m.id for m in more] == ["new"]


def test_requests_are_lines_of_json(tmp_path):
    path = tmp_path / "deep" / "label-requests.jsonl"
    requests = LabelRequester(to_file(path), bucket_s=0.0)
    for i in (1, 2):
        requests.consider([record(i)], [0], [1], 1e6)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[0] == {
        "id": "1", "reason": "disagreement", "ts": 1e6, "serving": 0, "candidate": 1, "version": 3
    }  # fmt: skip
    assert len(lines) == 2


def test_requests_travel_on_a_topic():
    producer = FakeProducer()
    write = to_topic(producer, "wishes", lambda wish: (wish.id.encode(), b"{}", ()))
    LabelRequester(write, bucket_s=0.0).consider([record(1)], [0], [1], 1e6)
    assert producer.sent == [("wishes", b"1", b"{}", ())]


class Away(FakeProducer):
    def send(self, *_):
        raise StreamError("no broker")


@pytest.mark.parametrize("where", ["disk", "topic"])
def test_what_cannot_be_written_is_told_and_the_loop_goes_on(where, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    full = (
        to_file(tmp_path / "file" / "x")
        if where == "disk"
        else to_topic(Away(), "t", lambda w: (b"", b"", ()))
    )
    LabelRequester(full, bucket_s=0.0).consider([record(1)], [0], [1], 1e6)
    assert "label requests could not be" in caplog.text


def test_it_knows_which_labels_were_requested_after_a_restart_too():
    requests, made = asks()
    requests.consider([record(i) for i in range(4)], [0] * 4, [0, 1, 0, 1], 1e6)
    again, _ = asks()
    again.load_state_dict(json.loads(json.dumps(requests.state_dict())))
    for one in (requests, again):
        assert [one.asked(str(i)) for i in range(5)] == [False, True, False, True, False]
    assert [m.id for m in made] == ["1", "3"]
