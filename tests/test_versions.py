"""The ledger: immutable, shared, atomic."""

import json
import threading

import numpy as np
import pytest

from tta_agent.errors import LedgerError
from tta_agent.types import Finding
from tta_agent.versions import KEEP_REJECTED, Ledger

GOLDEN = np.zeros((2, 3), np.float32)
WHY = [Finding("certificate", 120.0, 100.0, "pass", "certified: 12 wins, 0 losses among 40 labels")]


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(tmp_path / "versions")
    ledger.ensure_source("model-a", lambda: (b"graph 0", GOLDEN))
    return ledger


def test_the_source_is_version_0_and_made_once(ledger):
    assert ledger.aliases() == {"source": 0, "serving": 0}
    again = Ledger(ledger.folder).ensure_source("model-a", lambda: pytest.fail("made twice"))
    assert (again.number, again.proof) == (0, "source")
    assert np.array_equal(ledger.golden_inputs(), GOLDEN)


def test_a_ledger_of_another_model_is_refused(ledger):
    with pytest.raises(LedgerError, match="another model; choose another TTA_STORE__PATH"):
        ledger.ensure_source("model-b", lambda: (b"", GOLDEN))


def test_promotion_moves_aliases_and_keeps_the_proof(ledger):
    version = ledger.add(b"graph 1", ledger.get(0), {"rounds": 8})
    assert ledger.aliases()["candidate"] == version.number == 1
    ledger.conclude(1, "certified", "certified", WHY)
    ledger.serve(1)
    assert ledger.aliases() == {"source": 0, "serving": 1, "previous": 0, "candidate": None}
    assert ledger.get(1).proof == "certified"
    assert ledger.manifest(1)["parent_sha256"] == ledger.get(0).sha256
    assert ledger.rows()[1]["reason"] == WHY[0].reason


def test_a_verdict_is_final(ledger):
    ledger.add(b"graph 1", ledger.get(0), {})
    ledger.reject(1, "rejected", WHY)
    with pytest.raises(LedgerError, match="already has a verdict"):
        ledger.conclude(1, "certified", "certified", [])


def test_a_rejected_version_keeps_its_explanation_only(ledger):
    ledger.add(b"graph 1", ledger.get(0), {})
    ledger.reject(1, "rejected", WHY)
    assert ledger.verdict(1)["findings"][0]["reason"] == WHY[0].reason
    with pytest.raises(LedgerError, match=r"version 1 is not in .* there are \[0\]"):
        ledger.get(1)


def test_numbers_are_never_reused_and_old_rejections_go(ledger):
    for _ in range(KEEP_REJECTED + 5):
        number = ledger.add(b"x", ledger.get(0), {}).number
        ledger.reject(number, "expired", [])
    assert number == KEEP_REJECTED + 5
    assert len(ledger.numbers()) == KEEP_REJECTED + 1
    assert ledger.get(0).path.read_bytes() == b"graph 0"


def test_concurrent_writers_get_different_numbers(ledger):
    made = []
    threads = [
        threading.Thread(
            target=lambda: made.append(Ledger(ledger.folder).add(b"x", ledger.get(0), {}).number)
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == list(range(1, 9))


def test_a_damaged_manifest_is_named(ledger):
    (ledger.folder / "000000" / "manifest.json").write_text("{")
    with pytest.raises(LedgerError, match=r"manifest.json cannot be read"):
        ledger.get(0)


def test_half_written_versions_are_not_seen(ledger):
    (ledger.folder / ".staging-x").mkdir()
    (ledger.folder / ".staging-x" / "model.onnx").write_bytes(b"half")
    assert ledger.numbers() == [0]
    assert json.loads((ledger.folder / "aliases.json").read_text())["serving"] == 0
