"""The demo as a newcomer starts it, shortened; its agent is killed in the middle."""

import json
import subprocess
import sys
import time

import pytest

from tests import worlds
from tta_agent.demo.processes import answers

BAR = {
    "clean_accuracy", "source_accuracy_after_shift", "served_accuracy_before_swap", "served_accuracy_after_swap",
    "swaps", "rollbacks", "failed_requests", "unknown_answers", "labels_used", "seconds",
}  # fmt: skip


def play(tmp_path, *more: str) -> dict:
    out = tmp_path / "numbers.json"
    command = [sys.executable, "-m", "tta_agent", "demo", "--seed", "7", "--json", str(out), *more]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out")],
        capture_output=True, text=True, env=worlds.clean_environ(), timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (tmp_path / "stderr").write_text(done.stderr)
    return json.loads(out.read_text())


def check(numbers: dict) -> None:
    assert numbers.keys() >= BAR
    assert numbers["swaps"] >= 1
    assert (numbers["failed_requests"], numbers["unknown_answers"], numbers["failures"]) == (0, 0, [])
    lost = numbers["clean_accuracy"] - numbers["source_accuracy_after_swap"]
    assert numbers["served_accuracy_after_swap"] - numbers["source_accuracy_after_swap"] >= lost / 2
    assert all(0 <= numbers[name] <= 1 for name in BAR if "accuracy" in name)


@pytest.mark.slow
def test_a_killed_agent_resumes_and_the_server_never_stops_answering(tmp_path):
    numbers = play(tmp_path, "--seconds", "52", "--kill-agent", "--label-rate", "0.6")
    check(numbers)
    assert numbers["resumed"] == 1
    for name in ("demo.png", "demo.html"):
        assert (tmp_path / "out" / name).stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.kafka
def test_the_story_on_a_real_broker(tmp_path, kafka):
    check(play(tmp_path, "--seconds", "32", "--label-rate", "0.6", "--bootstrap-servers", kafka))
    said = (tmp_path / "stderr").read_text()
    assert "not found in cluster metadata" not in said  # a topic that is missing makes each send wait


@pytest.mark.slow
def test_a_demo_that_is_told_to_stop_leaves_no_process_behind(tmp_path):
    command = [sys.executable, "-m", "tta_agent", "demo", "--out", str(tmp_path / "out")]
    log = (tmp_path / "log").open("w+")
    demo = subprocess.Popen(command, stdout=log, stderr=log, env=worlds.clean_environ())
    server_log = tmp_path / "out" / "state" / "server.log"
    try:
        deadline_s = time.monotonic() + 60
        while not (server_log.exists() and "version 0 on cpu at " in server_log.read_text()):
            assert time.monotonic() < deadline_s
            time.sleep(0.1)
        url = server_log.read_text().split("version 0 on cpu at ")[1].split("/v2")[0]
        assert any(answers(url) or time.sleep(0.2) for _ in range(50))
        demo.terminate()
        assert demo.wait(60) == 130
    finally:
        demo.kill()
        log.close()
    assert not answers(url)
