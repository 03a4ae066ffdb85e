"""Whatever a client sends, both servers answer with a status below 500: fields of every body, paths, headers."""

from __future__ import annotations

import functools
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.serving.test_server import serving_tiny
from tests.web.test_access import interface

DIGITS = "9" * 5000
DEEP = "[" * 100_000
# as JSON text: values that end badly in some library
NASTY = [
    '"\\ud800"', '"\\udfff\\ud800"', '"\\u0000"', DIGITS, f"-{DIGITS}", "9" * 4000, f"0.{DIGITS}", "1e999", "-1e999",
    "NaN", "Infinity", DEEP, "{" * 100_000, '{"a":' * 50_000, "[" * 500 + "]" * 500, '"' + "x" * 5000 + '"', "null",
    "true", "[]", "{}", '""', "0", "-1", "1.5", "[[]]", '["\\ud800"]', '{"\\ud800":1}', '"１"', '"' + DIGITS + '"',
    "\ud800",
]  # fmt: skip
TENSOR = {"name": "input", "datatype": "FP32", "shape": [1, 1, 4, 4], "data": [0.5] * 16}
INFER: dict[str, Any] = {"id": "a", "parameters": {"binary_data_output": False}, "inputs": [TENSOR]} | {
    "outputs": [{"name": "logits", "parameters": {"binary_data": False}}], "model_name": "tiny", "model_version": "0"
}  # fmt: skip
LOAD = {"parameters": {"version": "0", "activate": True, "sha256": "0"}}
COMMAND = {"version": 1, "by": "anna", "reason": "why not"}
HOLE = "\0hole\0"


def holes(value: Any) -> Iterator[Any]:
    """The value with a hole in each of its places, names of fields among them."""
    yield HOLE
    if isinstance(value, dict):
        for name, inner in value.items():
            yield {**value, HOLE: 1}
            yield from ({**value, name: other} for other in holes(inner))
    elif isinstance(value, list) and value:
        yield from ([other, *value[1:]] for other in holes(value[0]))


def texts(body: Any) -> list[str]:
    """JSON of the body with a hole."""
    return sorted({json.dumps(one) for one in holes(body)})


@functools.cache
def filled(name: str) -> list[str]:
    return texts({"infer": INFER, "load": LOAD, "command": COMMAND}[name])


values = st.one_of(
    st.sampled_from(NASTY),
    st.text(st.characters()).map(json.dumps),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=8,
    ).map(json.dumps),
)
many = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def bodies(kind: str) -> st.SearchStrategy[bytes]:
    def fill(pair: tuple[str, str]) -> bytes:
        return pair[0].replace(json.dumps(HOLE), pair[1]).encode("utf-8", "surrogatepass")

    return st.tuples(st.sampled_from(filled(kind)), values).map(fill)


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Addresses of the embedded server and of the agent's interface."""
    with ExitStack() as stack:
        server = stack.enter_context(serving_tiny(tmp_path_factory.mktemp("server")))
        agent = stack.enter_context(interface(Path(tmp_path_factory.mktemp("agent"))))
        yield str(server.http.base_url), agent.url


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=30, trust_env=False) as client:
        yield client


def answered(response: httpx.Response) -> None:
    assert response.status_code < 500, response.text
    if "json" in response.headers.get("content-type", ""):
        json.loads(response.content)


@many
@given(body=bodies("infer"))
def test_bodies_of_inference(urls: tuple[str, str], http: httpx.Client, body: bytes) -> None:
    for path in ("infer", "versions/0/infer"):
        answered(http.post(f"{urls[0]}/v2/models/tiny/{path}", content=body))
    headers = {"inference-header-content-length": str(len(body))}
    answered(http.post(f"{urls[0]}/v2/models/tiny/infer", content=body, headers=headers))


@many
@given(body=bodies("load"))
def test_bodies_of_loads(urls: tuple[str, str], http: httpx.Client, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    for path in ("models/tiny/load", "index"):
        answered(http.post(f"{urls[0]}/v2/repository/{path}", content=body, headers=headers))


@many
@given(
    body=bodies("command"),
    kind=st.sampled_from(["approve", "reject", "rollback", "freeze", "unfreeze", "reset"]),
)
def test_bodies_of_commands(urls: tuple[str, str], http: httpx.Client, body: bytes, kind: str) -> None:
    answered(http.post(f"{urls[1]}/v1/{kind}", content=body, headers={"content-type": "application/json"}))


@pytest.mark.parametrize("text", NASTY, ids=range(len(NASTY)))
@pytest.mark.parametrize("kind", ["infer", "load", "command"])
def test_each_nasty_value_in_each_place(
    urls: tuple[str, str], http: httpx.Client, text: str, kind: str
) -> None:
    path = {
        "infer": f"{urls[0]}/v2/models/tiny/infer", "load": f"{urls[0]}/v2/repository/models/tiny/load",
        "command": f"{urls[1]}/v1/rollback",
    }[kind]  # fmt: skip
    for body in filled(kind):
        content = body.replace(json.dumps(HOLE), text).encode("utf-8", "surrogatepass")
        answered(http.post(path, content=content, headers={"content-type": "application/json"}))


PATHS = [
    (0, "/v2/models/tiny/versions/{}"), (0, "/v2/models/tiny/versions/{}/ready"), (0, "/v2/models/{}"), (0, "/{}"),
    (1, "/v1/versions/{}"), (1, "/v1/events?limit={}"), (1, "/v1/{}"),
]  # fmt: skip
parts = st.one_of(
    st.sampled_from(
        [DIGITS, "%ED%A0%80", "%00", "%FF", "-1", "1e9", "%EF%BC%91", "x" * 9000, "..", "%2e%2e%2f"]
    ),
    st.text(st.characters(codec="utf-8")).map(lambda text: "".join(f"%{byte:02X}" for byte in text.encode())),
)


@many
@given(place=st.sampled_from(PATHS), part=parts)
@example(place=PATHS[0], part=DIGITS)
@example(place=PATHS[4], part=DIGITS)
@example(place=PATHS[5], part=DIGITS)
def test_paths_and_queries(
    urls: tuple[str, str], http: httpx.Client, place: tuple[int, str], part: str
) -> None:
    which, form = place
    answered(http.get(urls[which] + form.format(part)))


@pytest.mark.parametrize("path", ["/v2/models/tiny/versions/{}/infer", "/v1/versions/{}"])
def test_a_number_of_5000_digits_is_a_bad_request(
    urls: tuple[str, str], http: httpx.Client, path: str
) -> None:
    server = path.startswith("/v2")
    url = urls[0 if server else 1] + path.format(DIGITS)
    assert (http.post(url, content=b"{}") if server else http.get(url)).status_code == 400


@pytest.mark.parametrize(
    "body",
    [
        '{"by": "\\ud800"}',
        '{"reason": "\\udfff"}',
        '{"version": ' + "9" * 4000 + "}",
        '{"version": ' + DIGITS + "}",
        "[" * 60_000,
    ],
)
def test_what_no_file_could_hold_is_no_command(urls: tuple[str, str], http: httpx.Client, body: str) -> None:
    found = http.post(f"{urls[1]}/v1/freeze", content=body, headers={"content-type": "application/json"})
    assert found.status_code == 400


RAW = [
    b"Host: [::1", b"Host: \xff\xfe", b"Host: a b", b"Host: 127.0.0.1:99999999999", b"Host: 127.0.0.1\r\nHost: evil",
    b"Host: 127.0.0.1\r\nContent-Length: " + DIGITS.encode(), b"Host: 127.0.0.1\r\nContent-Length: -1",
    b"Host: 127.0.0.1\r\nContent-Length: 1\r\nContent-Length: 2", b"Host: 127.0.0.1\r\nTransfer-Encoding: gzip",
    b"Host: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: upgrade", b"Host: 127.0.0.1\r\nX: " + b"x" * 100_000,
    b"Host: 127.0.0.1\r\nInference-Header-Content-Length: " + DIGITS.encode(),
    b"Host: 127.0.0.1\r\nAuthorization: Bearer \xed\xa0\x80", b"Host: 127.0.0.1\r\nContent-Type: \xff", b"no header",
]  # fmt: skip


@pytest.mark.parametrize("header", RAW, ids=range(len(RAW)))
@pytest.mark.parametrize(
    "target", [b"/v2/models/tiny/infer", b"/v1/reset", b"/\xff\xfe", b"//", b"*", b"http://[::1"]
)
def test_heads_that_are_none(urls: tuple[str, str], header: bytes, target: bytes) -> None:
    for url in urls:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), 10) as client:
            client.sendall(b"POST " + target + b" HTTP/1.1\r\n" + header + b"\r\nConnection: close\r\n\r\n")
            line = client.makefile("rb").readline()
        assert line.startswith(b"HTTP/1.1 4"), line
