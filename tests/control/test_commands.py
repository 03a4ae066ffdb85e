"""Commands on their way to a running agent, and the commands of the shell that send them."""

import json
import subprocess
import sys
import threading

import pytest
import typer
from typer.testing import CliRunner

from tests import worlds
from tta_agent.cli import commands
from tta_agent.control.commands import Command, CommandInbox, awaiting, read_status
from tta_agent.core.errors import ConfigError


def test_commands_are_taken_once_and_in_order(tmp_path):
    sender, agent = CommandInbox(tmp_path), CommandInbox(tmp_path)
    assert agent.take() == []
    sent = [Command("approve", 3, "anna", "looks right"), Command("reset"), Command("rollback", 0)]
    for command in sent:
        sender.put(command)
    assert agent.take() == sent
    assert agent.take() == []


def test_two_agents_never_take_the_same(tmp_path):
    for i in range(60):
        CommandInbox(tmp_path).put(Command("rollback", i))
    taken = []
    threads = [threading.Thread(target=lambda: taken.extend(CommandInbox(tmp_path).take())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(command.number for command in taken) == list(range(60))


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "null",
        '{"kind": "explode"}',
        '{"kind": "approve"}',
        '{"kind": "reset", "more": 1}',
        '"x"',
        "\udcff",
    ],
)
def test_what_is_no_command_is_put_aside_and_the_others_are_obeyed(tmp_path, content, caplog):
    inbox = CommandInbox(tmp_path)
    inbox.put(Command("reset"))
    (tmp_path / "inbox" / "0.json").write_bytes(content.encode(errors="surrogateescape"))
    assert [command.kind for command in inbox.take()] == ["reset"]
    assert (tmp_path / "inbox" / "bad" / "0.json").exists()
    assert "is no command" in caplog.text
    assert inbox.take() == []


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": "aprove", "number": 1}, "did you mean approve"),
        ({"kind": "reject"}, "needs the number"),
        ({"kind": "rollback", "number": -1}, "whole number from 0"),
        ({"kind": "rollback", "number": True}, "whole number from 0"),
        ({"kind": "approve", "number": "3"}, "whole number from 0"),
        ({"kind": "reset", "reason": "x" * 501}, "500 characters"),
        ({"kind": "reset", "by": None}, "500 characters"),
    ],
)
def test_a_command_that_makes_no_sense_cannot_be_made(fields, words):
    with pytest.raises(ConfigError, match=words):
        Command(**fields)


def test_a_freeze_holds_at_once_and_survives_a_restart(tmp_path):
    agent = CommandInbox(tmp_path)
    assert agent.frozen() is None
    CommandInbox(tmp_path).put(Command("freeze", by="anna", reason="audit"))
    assert agent.frozen() == CommandInbox(tmp_path).frozen() == "frozen by anna: audit"
    assert [command.kind for command in agent.take()] == ["freeze"]
    assert agent.frozen(), "taking the command does not end it"
    CommandInbox(tmp_path).put(Command("freeze", by="bert"))
    assert agent.frozen() == "frozen by bert"
    CommandInbox(tmp_path).put(Command("unfreeze"))
    assert agent.frozen() is None


def test_a_freeze_file_written_by_hand_freezes(tmp_path):
    (tmp_path / "frozen.json").write_text("stop!")
    assert "frozen by" in CommandInbox(tmp_path).frozen()


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "inbox").write_text("")
    with pytest.raises(ConfigError, match="TTA_STORE__PATH"):
        CommandInbox(tmp_path).put(Command("reset"))
    assert CommandInbox(tmp_path).take() == []


def test_the_status_is_read_whatever_it_is(tmp_path):
    assert read_status(tmp_path) == {}
    (tmp_path / "status.json").write_text("[1")
    assert awaiting(read_status(tmp_path)) is None
    (tmp_path / "status.json").write_text('{"awaiting": 4}')
    assert awaiting(read_status(tmp_path)) == 4


@pytest.fixture
def shell(tmp_path, monkeypatch):
    """Runs a command against the store of an agent; version 3 waits."""
    monkeypatch.setenv("TTA_STORE__PATH", str(tmp_path))
    (tmp_path / "status.json").write_text(json.dumps({"time": 1.0, "awaiting": 3}))
    app = typer.Typer()
    for command in (
        commands.approve,
        commands.reject,
        commands.freeze,
        commands.unfreeze,
        commands.reset,
    ):
        app.command()(command)
    return lambda *words: CliRunner().invoke(app, [*words], catch_exceptions=True)


@pytest.mark.parametrize(
    ("words", "kind", "number"),
    [
        (("approve", "3"), "approve", 3),
        (("approve",), "approve", 3),
        (("reject", "3"), "reject", 3),
        (("freeze",), "freeze", None),
        (("unfreeze",), "unfreeze", None),
        (("reset",), "reset", None),
    ],
)
def test_commands_of_the_shell_arrive_and_say_what_will_happen(shell, tmp_path, words, kind, number):
    done = shell(*words, "--by", "anna", "--reason", "why not")
    assert done.exit_code == 0, done.output
    (command,) = CommandInbox(tmp_path).take()
    assert (command.kind, command.number, command.by, command.reason) == (kind, number, "anna", "why not")
    assert done.output.strip()
    assert "has said nothing for" in done.output, "the status is old"


def test_the_user_of_the_machine_decides_unless_told(shell, tmp_path, monkeypatch):
    monkeypatch.setenv("LOGNAME", "carla")
    shell("reset")
    assert CommandInbox(tmp_path).take()[0].by == "carla"


def test_only_the_version_that_waits_can_be_approved(shell, tmp_path):
    assert "did you mean 3?" in str(shell("approve", "4").exception)
    (tmp_path / "status.json").write_text(json.dumps({"time": 1.0, "awaiting": None}))
    assert "no version waits" in str(shell("approve").exception)
    assert "version 3 does not wait" in str(shell("reject", "3").exception)
    assert CommandInbox(tmp_path).take() == []


def test_a_folder_without_an_agent_is_said(shell, tmp_path):
    (tmp_path / "status.json").unlink()
    done = shell("freeze")
    assert isinstance(done.exception, ConfigError)
    assert "no agent has run here" in str(done.exception)
    assert CommandInbox(tmp_path).frozen() is None


def test_the_commands_load_nothing_heavy():
    heavy = ("torch", "onnx", "starlette")
    code = f"import sys, tta_agent.cli.commands; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=worlds.clean_environ(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == "[]"
