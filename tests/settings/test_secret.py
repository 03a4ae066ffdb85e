"""Secrets of the settings stand in no text: configuration, messages, logs, status, manifests."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.worlds import clean_environ
from tta_agent.control.webhooks import Hooks
from tta_agent.core.errors import ConfigError, RegistryError, SwapError
from tta_agent.core.redact import host_only, without_user
from tta_agent.core.types import ServerInfo
from tta_agent.registry.factory import provenance
from tta_agent.registry.registry import ModelRegistry
from tta_agent.serving.drivers.oip import OipDriver
from tta_agent.settings import env

WORD = "hunter2"
HOOK = f"http://anna:{WORD}@127.0.0.1:9/hooks/{WORD}?token={WORD}"
SECRET = {
    "TTA_HTTP__CONFIRM_URL": HOOK,
    "TTA_HTTP__EVENT_URL": HOOK,
    "TTA_HTTP__ROLLBACK_URL": HOOK,
    "TTA_HTTP__TOKEN": WORD,
    "TTA_SERVE__TOKEN": WORD,
    "TTA_SWAP__TOKEN": WORD,
    "TTA_SWAP__URL": f"http://anna:{WORD}@127.0.0.1:9",
    "TTA_STORE__VERSIONS": f"sftp://anna:{WORD}@models.example/a",
    "TTA_STREAM__SASL_PASSWORD": WORD,
}


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRET.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (HOOK, "http://127.0.0.1:9/…"),
        ("https://hooks.example/T0/B0/xyz", "https://hooks.example/…"),
        ("https://[::1]:80/x", "https://[::1]:80/…"),
        ("http://host:port/x", "(an address without a host)"),
        ("http://[::1/x", "(an address without a host)"),
        (WORD, "(an address without a host)"),
    ],
)
def test_of_a_webhook_only_the_host_is_shown(url: str, shown: str) -> None:
    assert host_only(url) == shown


def test_users_of_urls_are_not_shown() -> None:
    told = without_user(f"cannot read s3://key:{WORD}@bucket/a or ftp://anna@host; see http://host/a@b")
    assert told == "cannot read s3://…@bucket/a or ftp://…@host; see http://host/a@b"


def test_the_configuration_shows_no_secret(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tta_agent", "run", "--show-config"]
    more = {"TTA_MODEL__FACTORY": "tests.worlds:tiny_batch_net", "TTA_MODEL__INPUT_SHAPE": "[1,8,8]"}
    done = subprocess.run(
        command, env={**clean_environ(), **SECRET, **more}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert WORD not in done.stdout + done.stderr
    shown = json.loads(done.stdout)
    assert shown["http"]["event_url"] == "http://127.0.0.1:9/…"
    assert shown["swap"]["url"] == "http://…@127.0.0.1:9"
    assert shown["store"]["versions"] == "sftp://…@models.example/a"


@pytest.mark.usefixtures("secrets")
def test_settings_as_text_and_the_manifest_show_no_secret() -> None:
    settings = env.load()
    assert WORD not in repr(settings.http) + str(settings.serve) + repr(settings.swap.token)
    assert WORD not in json.dumps(provenance(settings)) + settings.model_dump_json()
    assert settings.http.event_url is not None and settings.http.event_url.get_secret_value() == HOOK


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TTA_HTTP__EVENT_URL", f"ftp://anna:{WORD}@host/x"),
        ("TTA_HTTP__EVENT_URL", WORD),
        ("TTA_HTTP__EVENT_URL", f"http://{WORD}:port/"),
        ("TTA_HTTP", json.dumps({"event_url": [WORD]})),
        ("TTA_HTTP", json.dumps({"token": {"a": WORD}})),
        ("TTA_HTTP", json.dumps([WORD])),
        ("TTA_HTTP", '{"token": "' + WORD),
        ("TTA_STREAM__SASL_PASSWORD_FILE", "/somewhere"),
    ],
)
@pytest.mark.usefixtures("secrets")
def test_an_error_names_the_setting_and_shows_no_secret(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    for other in [other for other in SECRET if other.startswith(f"{name}__")]:
        monkeypatch.delenv(other)
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as refused:
        env.load()
    assert WORD not in str(refused.value)
    assert name in str(refused.value)


def test_webhooks_log_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        hooks = Hooks(HOOK, HOOK, HOOK, timeout_s=2.0, back_off_s=0.0)
        hooks.confirm({"version": 1})
        hooks.rollback({"version": 1})
        hooks.event("swap", {"version": 1})
        hooks.close(10.0)
    told = "\n".join(record.getMessage() for record in caplog.records if record.name != "httpcore.connection")
    assert WORD not in told and "http://127.0.0.1:9/…" in told


def test_a_webhook_that_answers_is_not_logged_with_its_secret(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("httpx").setLevel(logging.NOTSET)
    Hooks().close()
    with caplog.at_level(logging.INFO):
        answer = httpx.Response(200, request=httpx.Request("POST", HOOK))
        logging.getLogger("httpx").info("HTTP Request: %s %s %d", "POST", answer.request.url, 200)
    assert WORD not in caplog.text and "http://127.0.0.1:9/…" in caplog.text


def test_the_driver_tells_no_secret() -> None:
    driver = OipDriver(ServerInfo(f"http://anna:{WORD}@127.0.0.1:9", "tiny", 2.0, token=WORD))
    with pytest.raises(SwapError) as refused:
        driver.probe()
    driver.close()
    assert WORD not in str(refused.value) and "http://…@127.0.0.1:9" in str(refused.value)


@pytest.mark.parametrize("scheme", ["nothing", "sftp", "ftp"])
def test_the_registry_tells_no_secret(scheme: str) -> None:
    with pytest.raises(RegistryError) as refused:
        ModelRegistry(f"{scheme}://anna:{WORD}@127.0.0.1:9/a").numbers()
    assert WORD not in str(refused.value)
