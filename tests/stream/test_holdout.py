"""Who is held out is a secret of the store: one for good, of nobody else's choice."""

from __future__ import annotations

import logging
import stat
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tta_agent.assembly import build
from tta_agent.core.errors import ConfigError
from tta_agent.core.types import Record
from tta_agent.labels.join import LabelJoiner
from tta_agent.labels.requests import drawn
from tta_agent.settings.schema import Settings
from tta_agent.stream import holdout
from tta_agent.stream.batcher import held_out
from tta_agent.stream.holdout import secret_of
from tta_agent.stream.router import RecordRouter

KEYS = [f"k{i}" for i in range(20_000)]


def test_a_store_has_one_secret_for_good(tmp_path: Path) -> None:
    store = tmp_path / "store"
    first = secret_of(store)
    assert len(first) == 32 and secret_of(store) == first == (store / "holdout.key").read_bytes()
    assert stat.S_IMODE((store / "holdout.key").stat().st_mode) == 0o600
    assert [path.name for path in store.iterdir()] == ["holdout.key"], "no draft stays"
    assert secret_of(tmp_path / "other") != first


def test_of_two_that_begin_at_once_one_wins(tmp_path: Path) -> None:
    found: list[bytes] = []
    together = threading.Barrier(8)

    def begin() -> None:
        together.wait()
        found.append(secret_of(tmp_path))

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len(set(found)) == 1


def test_a_store_of_before_is_told_that_entities_are_dealt_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "checkpoint.pt").touch()
    with caplog.at_level(logging.WARNING):
        secret_of(tmp_path)
        secret_of(tmp_path)
    assert [record.message for record in caplog.records] == [
        f"{tmp_path / holdout.NAME} was missing: who is held out is dealt anew, once"
    ]


@pytest.mark.parametrize("content", [b"", b"x" * 31, b"x" * 33])
def test_a_damaged_secret_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "holdout.key").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"holdout\.key has {len(content)} bytes; expected 32"):
        secret_of(tmp_path)


def test_a_secret_that_cannot_be_had_is_said(tmp_path: Path) -> None:
    (tmp_path / "holdout.key").mkdir()
    with pytest.raises(ConfigError, match="TTA_STORE__PATH"):
        secret_of(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="TTA_STORE__PATH"):
        secret_of(tmp_path / "file" / "store")


@pytest.mark.parametrize("choose", [held_out, drawn])
def test_with_a_secret_nobody_can_choose(choose) -> None:
    """Keys that are chosen without the secret are held out as often as any."""
    chosen = [key for key in KEYS if choose(key, 0.2)]
    secret = bytes(range(32))
    assert np.mean([choose(key, 0.2, secret) for key in chosen]) == pytest.approx(0.2, abs=0.03)
    assert np.mean([choose(key, 0.2, secret) for key in KEYS]) == pytest.approx(0.2, abs=0.02)
    assert [choose(key, 0.2, secret) for key in KEYS] != [choose(key, 0.2, bytes(32)) for key in KEYS]


def test_without_a_secret_the_deal_is_that_of_releases_before() -> None:
    assert [i for i in range(30) if held_out(f"r{i}", 0.2)] == [9, 18, 27]


def test_the_router_deals_by_its_secret() -> None:
    def held(salt: bytes) -> set[str]:
        router = RecordRouter(LabelJoiner(horizon_s=50.0), 0.2, 1e12, salt=salt)
        x = np.zeros((1, 1, 1), np.float32)
        records = [
            Record(key, 0.0, x, None, None, key, None, "t", 0, i, identity=("s", key, "t"))
            for i, key in enumerate(KEYS[:500])
        ]
        return {record.key for record in router.sort(records).held}

    secret = bytes(range(32))
    assert held(secret) == {key for key in KEYS[:500] if held_out(key, 0.2, secret)} != held(b"")


def test_the_agent_deals_by_the_secret_of_its_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "assemble", lambda *_, **named: named)
    source = SimpleNamespace(output=SimpleNamespace(name=None))
    named = build.agent(Settings(store={"path": tmp_path}), source)  # type: ignore[arg-type]
    assert named["salt"] == secret_of(tmp_path)  # type: ignore[index]
