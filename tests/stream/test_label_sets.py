"""Sets of labels on the wire, in recordings, and in the label store."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tta_agent.core.errors import DecodeError
from tta_agent.core.types import Label, RawRecord, Record
from tta_agent.labels.join import LabelJoiner
from tta_agent.models.outputs import ModelOutput
from tta_agent.stream.codecs.cloudevents import CloudEvents
from tta_agent.stream.codecs.oip_json import OipJson
from tta_agent.stream.decoder import Decoder
from tta_agent.stream.recordings.format import Row
from tta_agent.stream.recordings.reader import Recording, import_npz
from tta_agent.stream.recordings.writer import RecordingWriter

OUTPUT = ModelOutput(None, "sigmoids")


def raw(body: object) -> RawRecord:
    return RawRecord("labels", 0, 0, 1000, b"a", json.dumps(body).encode(), ())


def read(body: object, classes: int | None = 4) -> list[tuple[str, object]]:
    return [(label.id, label.label) for label in OipJson().decode(raw(body), (2,), classes)]


def test_a_set_is_a_list_of_the_labels_that_hold():
    assert read({"id": "a", "labels": [3, 0]}) == [("a", (0, 3))]
    assert read({"id": "a", "labels": []}) == [("a", ())]
    assert read({"id": "a", "labels": [[1], [], [0, 2]]}) == [("a#0", (1,)), ("a#1", ()), ("a#2", (0, 2))]
    assert read({"id": "a", "label": [1, 2]}) == [("a#0", 1), ("a#1", 2)], (
        "a class for each sample, as before"
    )


@pytest.mark.parametrize("labels", [[4], [-1], [True], ["0"], "0", 3, None, [[0], 1], [[5]], {"0": 1}])
def test_what_is_no_set_is_refused(labels):
    with pytest.raises(DecodeError, match="label"):
        read({"id": "a", "labels": labels})


def test_a_set_that_was_written_is_read():
    for told in (frozenset({2, 1}), frozenset()):
        key, value, headers = CloudEvents().encode_label("a", told, 5.0)
        (label,) = CloudEvents().decode(RawRecord("labels", 0, 0, 0, key, value, headers), (2,), 4)
        assert (label.id, label.label, label.time_s) == ("a", tuple(sorted(told)), 5.0)


def test_a_label_of_another_task_is_no_label():
    for output, body in ((OUTPUT, {"id": "a", "label": 1}), (ModelOutput(), {"id": "a", "labels": [1]})):
        decoder = Decoder(OipJson(), (2,), 4, output=output)
        assert decoder.read([raw(body)]) == []
        assert dict(decoder.refused) == {"label_task": 1}


def test_served_sigmoids_become_log_odds():
    p = np.array([[0.9, 0.2, 0.5, 0.01]], np.float32)
    body = {"id": "a", "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [0, 0]}]}
    body["outputs"] = [{"name": "y", "datatype": "FP32", "shape": [1, 4], "data": p[0].tolist()}]
    (record,) = Decoder(OipJson(), (2,), 4, output=OUTPUT).read([raw(body)])
    assert record.served.shape == (2, 4)
    assert np.allclose(record.served[1] - record.served[0], np.log(p[0] / (1 - p[0])), atol=1e-5)


def test_sets_are_joined_and_survive_the_file(tmp_path):
    served = OUTPUT.logits(np.array([[0.9, 0.2, 0.7]], np.float32))[0]
    joiner = LabelJoiner(tmp_path / "labels.db")
    for name in ("right", "wrong", "later"):
        joiner.expect(Record(name, 1.0, np.zeros(2), served, 0, name, None, "t", 0, 0))
    joiner.close()
    joiner = LabelJoiner(tmp_path / "labels.db")
    assert joiner.arrive(Label("right", (0, 2), 2.0)).correct
    assert not joiner.arrive(Label("wrong", (0,), 2.0)).correct
    joiner.arrive(Label("early", (), 2.0))
    joiner.close()
    joiner = LabelJoiner(tmp_path / "labels.db")
    early = joiner.expect(Record("early", 1.0, np.zeros(2), served, 0, "e", None, "t", 0, 0))
    assert early == Label("early", (), 2.0)
    assert dict(joiner.counts) == {"answered": 4, "matched": 2, "right": 1}
    joiner.close()


def test_an_array_of_labels_becomes_sets(tmp_path):
    labels = np.array([[1, 0, 1], [0, 0, 0]])
    np.savez(tmp_path / "a.npz", inputs=np.zeros((2, 4), np.float32), labels=labels)
    assert import_npz(tmp_path / "a.npz", tmp_path / "r", model="m") == 2
    tape = Recording.open(tmp_path / "r")
    assert [row.label for row in tape] == [(0, 2), ()] and len(tape.index.classes) == 3


def test_a_recording_keeps_sets_and_classes_apart(tmp_path):
    labels = [(0, 2), (), None, 3]
    with RecordingWriter(tmp_path / "r", model="m", classes=4) as writer:
        for i, label in enumerate(labels):
            writer.add(Row(str(i), float(i), str(i), np.zeros(2, np.float32), label=label))
    assert [row.label for row in Recording.open(tmp_path / "r")] == labels
