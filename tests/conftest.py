"""What all tests share: small thread budgets, and real servers that are started once a session."""

from __future__ import annotations

import gc
import os

# Before anything imports numpy or torch: several test processes share few cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import sys
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.parts.kafka.broker import broker, unavailable

if TYPE_CHECKING:
    from tta_agent.models.onnx_export import GraphTemplate


def pytest_configure(config: pytest.Config) -> None:
    """Kafka's client reads its schemas in a way that Python 3.11 calls old, while it is imported."""
    config.addinivalue_line("filterwarnings", "ignore:(read|open)_text is deprecated:DeprecationWarning")


@pytest.fixture(autouse=True)
def _one_torch_thread() -> None:
    """Torch takes its own decision about threads; it is not imported for the tests that do without."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() > 1:
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The bootstrap address of a real Kafka. PARTS_REQUIRED=kafka makes its absence a failure."""
    require_or_skip("kafka", unavailable())
    with broker(tmp_path_factory.mktemp("kafka")) as address:
        _collect_sockets()  # those of the attempts before it was up
        yield address
    _collect_sockets()


@pytest.fixture(scope="module")
def template() -> GraphTemplate:
    """Graph of a small net for the worlds of the rollout."""
    from tta_agent.models.onnx_export import GraphTemplate
    from tta_agent.testing import tiny_net

    return GraphTemplate(tiny_net("batch"), (1, 8, 8))


def _collect_sockets() -> None:
    """kafka-python leaves refused sockets to the garbage collector, where they would warn later, anywhere."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def require_or_skip(part: str, reason: str | None) -> None:
    """Skip a test whose server cannot be started here, or fail where the environment asks for that server.

    Args:
        reason: why it cannot; None where it can.
    """
    if reason is None:
        return
    if part in os.environ.get("PARTS_REQUIRED", ""):
        pytest.fail(f"{part}: {reason}")
    pytest.skip(f"{part}: {reason}")
