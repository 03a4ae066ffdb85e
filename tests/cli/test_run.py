"""The agent as a process: an orderly end from any state, one writer a store, nothing lost by SIGKILL."""

from __future__ import annotations

import time

import httpx
import pytest

from benchmarks import lifecycle
from tta_agent.demo.processes import Child, free_port


@pytest.mark.slow
@pytest.mark.parametrize("moment", lifecycle.MOMENTS)
def test_sigterm_ends_it_with_status_0_within_ten_seconds(tmp_path, moment):
    assert lifecycle.sigterm(tmp_path, moment, 1.0), (tmp_path / "agent.log").read_text()[-2000:]
    if moment not in ("loading", "idle"):
        assert (tmp_path / "store" / "checkpoint.pt").exists()


@pytest.mark.slow
def test_killed_again_and_again_it_counts_every_record_once(tmp_path):
    found = lifecycle.kill_series(tmp_path, kills=3, records=640, look_every=3)
    assert found.pop("resumed") >= 1  # otherwise nothing has been tried
    assert found == {"kills": 3, "lost": 0, "applied_twice": 0, "bit_equal": True}


@pytest.mark.slow
def test_a_second_agent_waits_as_standby_and_takes_over(tmp_path):
    variables = lifecycle.environ(tmp_path)
    lifecycle.feed(variables, 64)
    ports = [free_port(), free_port()]
    first, second = (
        Child("run", {**variables, "TTA_HTTP__PORT": str(port)}, tmp_path / f"{i}.log")
        for i, port in enumerate(ports)
    )
    first.start()
    try:
        lifecycle.wait(first, lambda: lifecycle.says(first, "starting from the source"))
        second.start()
        lifecycle.wait(second, lambda: lifecycle.says(second, "standby: process"))
        ready = httpx.get(f"http://127.0.0.1:{ports[1]}/readyz")
        assert ready.status_code == 503
        assert ready.json()["reason"] == f"standby: process {first.pid} on {_host()} owns the store"
        assert httpx.get(f"http://127.0.0.1:{ports[1]}/healthz").status_code == 200
        assert lifecycle.ended_cleanly(first)
        lifecycle.wait(second, lambda: lifecycle.says(second, "resumed after"))
        deadline_s = time.monotonic() + 60
        while httpx.get(f"http://127.0.0.1:{ports[1]}/readyz").status_code != 200:
            assert time.monotonic() < deadline_s
            time.sleep(0.1)
        assert "tta_model_info{" in httpx.get(f"http://127.0.0.1:{ports[1]}/metrics").text
        assert lifecycle.ended_cleanly(second)
    finally:
        first.stop(0.1)
        second.stop(0.1)


def _host():
    import socket

    return socket.gethostname()
