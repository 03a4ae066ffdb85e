"""Requests and responses that are logged apart: joined, alone, without a request, bounded, and nothing lost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.stream.test_variants import VARIANTS, Y_OF_SOURCE, raws
from tta_agent.core.stream_protocols import Codec
from tta_agent.core.types import Message, RawRecord, Record
from tta_agent.models.outputs import LOGITS
from tta_agent.settings import env
from tta_agent.stream import factory
from tta_agent.stream.codecs.auto import AutoCodec
from tta_agent.stream.codecs.cloudevents import CloudEvents
from tta_agent.stream.decoder import Decoder
from tta_agent.stream.response_join import SILENT_S, ResponseJoiner

REQUEST, RESPONSE = raws(VARIANTS["kserve_request_and_response"])
WINDOW_S = 60.0


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Letters:
    """Keeps dead letters."""

    def __init__(self) -> None:
        self.sent: list[Message] = []

    def send(self, topic: str, key: Any, value: Any, headers: Any = (), on_done: Any = None) -> None:
        self.sent.append((key, value, headers))

    def flush(self) -> None: ...

    def close(self) -> None: ...


KSERVE = AutoCodec({"cloudevents": CloudEvents()})


def opened(max_bytes: int = 1 << 20, codec: Codec = KSERVE) -> tuple[Decoder, Clock, Letters]:
    clock, letters = Clock(), Letters()
    joiner = ResponseJoiner(WINDOW_S, max_bytes, clock)
    return Decoder(codec, (3, 4, 4), 5, letters, "dlq", output=LOGITS, joiner=joiner), clock, letters


def half(name: str, side: str) -> RawRecord:
    """Request or response of a variant that logs them apart."""
    return raws(VARIANTS[name])[side == "response"]


def named(raw: RawRecord, id: str, offset: int = 0, partition: int = 0) -> RawRecord:
    headers = tuple((name, id.encode() if name == "ce_id" else value) for name, value in raw.headers)
    return replace(raw, headers=headers, offset=offset, partition=partition)


@pytest.mark.parametrize("order", [(REQUEST, RESPONSE), (RESPONSE, REQUEST)])
def test_both_halves_become_one_record_in_any_order(order: tuple[RawRecord, ...]) -> None:
    decoder, clock, letters = opened()
    assert decoder.read(order[:1]) == []
    clock.now_s = WINDOW_S - 1 if order[0] is RESPONSE else SILENT_S - 0.1
    found = decoder.read(order[1:])
    served = np.stack([one.served for one in found if isinstance(one, Record) and one.served is not None])
    np.testing.assert_allclose(served, Y_OF_SOURCE, atol=1e-5)
    assert dict(decoder.joined) == {"joined": 1} and not letters.sent
    assert decoder.oldest() == {}


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("asked", ["oip_json_apart", "v1_apart", "oip_binary", "oip_proto"])
@pytest.mark.parametrize("answered", ["oip_json_apart", "v1_apart"])
def test_without_an_envelope_a_request_of_any_form_meets_a_response_in_json(
    asked: str, answered: str, order: int
) -> None:
    decoder, clock, letters = opened(codec=factory.open_codec(env.load()))
    first, second = (half(asked, "request"), half(answered, "response"))[::order]
    assert decoder.read([first]) == []
    clock.now_s = SILENT_S - 0.1
    found = [one for one in decoder.read([second]) if isinstance(one, Record)]
    served = np.stack([one.served for one in found if one.served is not None])
    np.testing.assert_allclose(served, Y_OF_SOURCE, atol=1e-5)
    assert {one.version for one in found} == {0}
    assert dict(decoder.joined) == {"joined": 1} and not letters.sent


def test_plain_json_halves_keep_to_the_same_bounds() -> None:
    codec = factory.open_codec(env.load())
    request, response = half("oip_json_apart", "request"), half("oip_json_apart", "response")
    decoder, clock, letters = opened(3 * len(request.value or b""), codec)
    many = [
        replace(request, value=(request.value or b"").replace(b"abc", b"%03d" % i), offset=i)
        for i in range(9)
    ]
    assert len(decoder.read(many)) >= 6 * 8 and decoder.oldest()  # no more of them fit; the others wait
    clock.now_s = SILENT_S + 0.1
    decoder.read([])
    assert dict(decoder.joined) == {"alone": 9} and decoder.oldest() == {}
    decoder.read([response])
    clock.now_s += WINDOW_S + 1
    assert decoder.read([]) == [] and dict(decoder.refused) == {"no_request": 1}
    assert [dict(headers)["tta_dlq_reason"] for _, _, headers in letters.sent] == [b"no_request"]


def test_a_request_alone_waits_shortly_while_nobody_answers_and_for_the_window_once_somebody_does() -> None:
    decoder, clock, _ = opened()
    decoder.read([REQUEST])
    clock.now_s = SILENT_S + 0.1
    found = decoder.read([])
    assert len(found) == 8 and all(isinstance(one, Record) and one.served is None for one in found)
    decoder.read([named(REQUEST, "b"), named(RESPONSE, "b")])
    decoder.read([named(REQUEST, "c")])
    clock.now_s += WINDOW_S - 1
    assert decoder.read([]) == []
    clock.now_s += 1.1
    assert len(decoder.read([])) == 8
    assert dict(decoder.joined) == {"alone": 2, "joined": 1}


def test_a_response_without_a_request_is_a_dead_letter_with_a_reason() -> None:
    decoder, clock, letters = opened()
    decoder.read([RESPONSE])
    clock.now_s = WINDOW_S + 1
    assert decoder.read([]) == []
    assert dict(decoder.refused) == {"no_request": 1}
    ((_, value, headers),) = letters.sent
    assert value == RESPONSE.value and dict(headers)["tta_dlq_reason"] == b"no_request"


def test_a_response_that_does_not_fit_leaves_its_request_without_an_answer() -> None:
    decoder, _, letters = opened()
    (other,) = [one for one in raws(VARIANTS["kserve_v1"]) if b"predictions" in (one.value or b"")]
    found = decoder.read([REQUEST, replace(other, value=b'{"predictions": [1, 2]}')])
    assert len(found) == 8 and all(isinstance(one, Record) and one.served is None for one in found)
    assert len(letters.sent) == 1 and decoder.refused.total() == 1


def test_what_waits_is_bounded_in_bytes() -> None:
    decoder, _, _ = opened(max_bytes=4 * len(REQUEST.value or b""))
    found = [one for i in range(50) for one in decoder.read([named(REQUEST, f"id {i}", i)])]
    assert len({one.id.partition("#")[0] for one in found}) > 45
    assert decoder.joined["alone"] > 45
    assert len(found) + len(decoder.flush()) == 50 * 8, "nothing is lost"


def test_offsets_of_what_waits_are_not_committed() -> None:
    decoder, _, _ = opened()
    decoder.read([named(REQUEST, "a", 7, 1), named(REQUEST, "b", 9, 1), named(RESPONSE, "z", 3, 2)])
    assert decoder.oldest() == {("inference", 1): 7, ("inference", 2): 3}
    decoder.read([named(RESPONSE, "a", 4, 2)])
    assert decoder.oldest() == {("inference", 1): 9, ("inference", 2): 3}


def test_the_same_request_twice_loses_nothing() -> None:
    decoder, _, _ = opened()
    found = decoder.read([REQUEST, REQUEST, RESPONSE])
    assert [one.served is None for one in found if isinstance(one, Record)] == [True] * 8 + [False] * 8
    assert found[0].identity == found[8].identity  # type: ignore[union-attr]
