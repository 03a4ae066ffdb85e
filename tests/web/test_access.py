"""Who may ask: own names, no pages in browsers, a token; on both servers over real HTTP."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.parts import serving
from tests.serving.test_server import Server, serving_tiny
from tta_agent.assembly import server as embedded
from tta_agent.assembly.interface import Interface, open_interface
from tta_agent.control.commands import CommandInbox
from tta_agent.core.errors import ConfigError, SwapError
from tta_agent.core.types import ServerInfo
from tta_agent.registry.registry import ModelRegistry
from tta_agent.serving.drivers.oip import OipDriver
from tta_agent.settings.schema import Settings
from tta_agent.web.access import OwnHosts, is_loopback

ORDER = {"parameters": {"version": "1"}}
LOAD = "/v2/repository/models/tiny/load"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "::1", "localhost"])
def test_only_this_machine_can_reach_a_loopback_address(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "localhost.evil.example", ""])
def test_others_can_reach_any_other(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("bound", "more", "header", "status"),
    [
        ("127.0.0.1", [], "127.0.0.1:8080", None),
        ("127.0.0.1", [], "localhost", None),
        ("127.0.0.1", [], "LocalHost.:80", None),
        ("127.0.0.1", [], "[::1]:8080", None),
        ("127.0.0.1", [], None, None),
        ("127.0.0.9", [], "127.0.0.9:1", None),
        ("127.0.0.1", [], "evil.example", 403),
        ("127.0.0.1", [], "127.0.0.1.evil.example:8080", 403),
        ("127.0.0.1", [], "10.0.0.1", 403),
        ("127.0.0.1", ["models.example"], "models.example:99", None),
        ("127.0.0.1", ["models.example"], "evil.example", 403),
        ("0.0.0.0", [], "whatever.example", None),
        ("0.0.0.0", ["models.example"], "models.example", None),
        ("0.0.0.0", ["models.example"], "10.0.0.1:8080", None),
        ("0.0.0.0", ["models.example"], "evil.example", 403),
        ("0.0.0.0", [], "[::1", 400),
        ("127.0.0.1", [], "a b", 400),
        ("127.0.0.1", [], "user@localhost", 400),
        ("127.0.0.1", [], "", 400),
    ],
)
def test_own_names(bound: str, more: list[str], header: str | None, status: int | None) -> None:
    fault = OwnHosts.of(bound, more, "TTA_X__HOSTS").fault(header)
    assert (fault and fault[0]) == status
    assert status != 403 or "TTA_X__HOSTS" in (fault or (0, ""))[1]


@contextmanager
def with_token(folder: Path) -> Iterator[Server]:
    with serving_tiny(folder, token="s3cret") as server:
        server.graphs.add(1)
        yield server


@pytest.mark.parametrize(
    ("header", "status"),
    [(None, 401), ("Basic s3cret", 401), ("Bearer", 401), ("Bearer other", 403), ("Bearer s3cret", 200)],
)
@pytest.mark.parametrize("path", [LOAD, "/v2/repository/index"])
def test_the_repository_api_needs_the_token_where_there_is_one(
    tmp_path: Path, header: str | None, status: int, path: str
) -> None:
    headers = {} if header is None else {"authorization": header}
    with with_token(tmp_path) as server:
        found = server.http.post(path, json=ORDER, headers=headers)
        assert found.status_code == status
        assert ("www-authenticate" in found.headers) == (status == 401)
        loaded = status == 200 and path == LOAD
        assert server.pair.current()[0] == int(loaded)
        assert server.infer()[0] == str(int(loaded)), "inference needs no token"


def test_the_driver_sends_the_token(tmp_path: Path) -> None:
    with with_token(tmp_path) as server:
        url = str(server.http.base_url)
        driver = OipDriver(ServerInfo(url, "tiny", 10, token="s3cret"))
        driver.publish(server.graphs.find(1), serving.golden(1))
        driver.activate(server.graphs.find(1))
        assert driver.live() == 1
        driver.close()
        stranger = OipDriver(ServerInfo(url, "tiny", 10))
        with pytest.raises(SwapError, match="TTA_SERVE__TOKEN belongs into TTA_SWAP__TOKEN"):
            stranger.live()
        stranger.close()


def test_the_token_is_in_no_text() -> None:
    assert "s3cret" not in repr(ServerInfo("http://127.0.0.1", "tiny", 10, token="s3cret"))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"host": "evil.example"}, 403),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": "multipart/form-data; boundary=x"}, 415),
        ({"content-type": "application/json; charset=utf-8"}, 200),
    ],
)
def test_a_page_in_a_browser_cannot_load(tmp_path: Path, headers: dict[str, str], status: int) -> None:
    with serving_tiny(tmp_path) as server:
        server.graphs.add(1)
        found = server.http.post(LOAD, json=ORDER, headers=headers)
        assert found.status_code == status and (status == 200 or found.json()["error"])
        assert server.pair.current()[0] == int(status == 200)


@pytest.mark.parametrize("headers", [{"origin": "https://evil.example"}, {"host": "evil.example"}])
@pytest.mark.parametrize("path", ["/v2/stats", "/v2/models/tiny", "/v2/models/tiny/infer"])
def test_a_page_in_a_browser_cannot_ask_either(tmp_path: Path, headers: dict[str, str], path: str) -> None:
    with serving_tiny(tmp_path) as server:
        method = "POST" if path.endswith("infer") else "GET"
        assert server.http.request(method, path, headers=headers).status_code == 403


@contextmanager
def interface(folder: Path, **http: object) -> Iterator[Interface]:
    settings = Settings(store={"path": folder}, http={"port": 0, **http})  # type: ignore[arg-type]
    found = open_interface(settings, ModelRegistry(folder / "versions"), lambda: {"ready": True})
    assert found is not None
    try:
        yield found
    finally:
        found.close()


@pytest.mark.parametrize("token", [None, "s3cret"])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "https://evil.example"}, 403),
        ({"host": "evil.example"}, 403),
        ({"content-type": "text/plain"}, 415),
        ({"host": "own.example"}, 202),
        ({}, 202),
    ],
)
def test_a_page_in_a_browser_cannot_command_the_agent(
    tmp_path: Path, token: str | None, headers: dict[str, str], status: int
) -> None:
    with interface(tmp_path, token=token, hosts=["own.example"]) as found:
        named = {"authorization": f"Bearer {token}", **headers}
        answer = httpx.post(f"{found.url}/v1/reset", json={}, headers=named, trust_env=False)
    assert answer.status_code == status
    assert len(CommandInbox(tmp_path).take()) == (status == 202)


def test_a_page_in_a_browser_learns_nothing_of_the_agent(tmp_path: Path) -> None:
    with interface(tmp_path) as found:
        for headers in ({"host": "evil.example"}, {"origin": "null"}):
            answer = httpx.get(f"{found.url}/v1/status", headers=headers, trust_env=False)
            assert answer.status_code == 403
            assert answer.headers["content-type"] == "application/problem+json"


def test_probes_have_a_listener_of_their_own_and_it_tells_nothing_else(tmp_path: Path) -> None:
    with interface(tmp_path, health_port=0) as found:
        probes = found.servers[1].url
        assert httpx.get(f"{probes}/healthz", trust_env=False).json() == {"alive": True}
        assert httpx.get(f"{probes}/readyz", trust_env=False).json() == {"ready": True}
        assert httpx.get(f"{probes}/v1/status", trust_env=False).status_code == 404
        assert httpx.post(f"{probes}/v1/reset", json={}, trust_env=False).status_code == 404


def test_a_flood_does_not_end_the_probes(tmp_path: Path) -> None:
    """A liveness probe that fails would restart the agent."""
    with interface(tmp_path, health_port=0) as found, ExitStack() as stack:
        for server in found.servers:
            for _ in range(150):
                client = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 10))
                client.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Half: ")
        for server in found.servers:
            for _ in range(5):
                assert httpx.get(f"{server.url}/healthz", timeout=20, trust_env=False).is_success


def test_probes_alone_are_enough(tmp_path: Path) -> None:
    with interface(tmp_path, port=None, health_port=0) as found:
        assert httpx.get(f"{found.url}/healthz", headers={"host": "10.0.0.1"}, trust_env=False).is_success


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1"])
def test_others_cannot_reach_the_server_without_a_token(tmp_path: Path, host: str) -> None:
    settings = Settings(store={"path": tmp_path}, serve={"host": host})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="set TTA_SERVE__TOKEN") as refused:
        embedded.run(settings)
    assert host in str(refused.value) and "TTA_SWAP__TOKEN" in str(refused.value)
