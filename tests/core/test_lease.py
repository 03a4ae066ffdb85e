"""One writer of a store, and who takes over."""

import json
import multiprocessing
import os
import threading
import time

import pytest

from tta_agent.core.errors import ConfigError, LeaseLost
from tta_agent.core.lease import Lease


def never():
    return False


def taken(store, **more):
    lease = Lease(store, **more)
    assert lease.acquire(never)
    return lease


def told(store):
    return json.loads((store / "lease.json").read_text())


def as_if_elsewhere(store):
    """The owner lives on another machine: only its heartbeat tells whether it does."""
    (store / "lease.json").write_text(json.dumps({**told(store), "host": "elsewhere"}))


def test_an_empty_store_and_one_given_back_are_free(tmp_path):
    first = taken(tmp_path)
    first.release()
    second = taken(tmp_path)
    second.check()
    with pytest.raises(LeaseLost, match=f"process {os.getpid()} on .* owns"):
        first.check()
    second.release()
    second.release()


def test_a_standby_waits_while_the_heart_beats_and_takes_over_when_it_stands_still(tmp_path):
    owner = taken(tmp_path, ttl_s=0.5)
    as_if_elsewhere(tmp_path)
    owner._mine = type(owner._mine)(**told(tmp_path))  # and it knows
    seen, standby = [], Lease(tmp_path, ttl_s=0.5)
    thread = threading.Thread(target=standby.acquire, args=(never, seen.append))
    thread.start()
    thread.join(2.0)
    assert thread.is_alive() and {holder.host for holder in seen} == {"elsewhere"}
    owner.check()
    owner._ended.set()  # it hangs: no heartbeat any more
    thread.join(10)
    assert not thread.is_alive()
    standby.check()
    with pytest.raises(LeaseLost):
        owner.check()
    standby.release()


def test_an_owner_that_was_away_neither_beats_nor_gives_back_what_is_not_its_own(tmp_path):
    owner = taken(tmp_path, ttl_s=0.25)
    as_if_elsewhere(tmp_path)
    mine = told(tmp_path)
    (tmp_path / "lease.json").write_text(json.dumps({**mine, "token": mine["token"] + 1, "key": "theirs"}))
    time.sleep(0.3)
    owner.release()
    assert told(tmp_path) == {**mine, "token": mine["token"] + 1, "key": "theirs"}


def _hold(store, ready):
    taken(store)
    ready.set()
    time.sleep(60)


def test_a_process_that_was_killed_on_this_machine_is_followed_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    child = context.Process(target=_hold, args=(tmp_path, ready))
    child.start()
    assert ready.wait(60)
    child.kill()
    child.join()
    taken(tmp_path, ttl_s=3600.0).release()
    assert told(tmp_path)["token"] == 2


def test_a_file_that_is_damaged_does_not_keep_anybody_out(tmp_path):
    (tmp_path / "lease.json").write_text("half a li")
    taken(tmp_path).release()


def test_who_is_told_to_stop_waits_no_more(tmp_path):
    owner = taken(tmp_path)
    as_if_elsewhere(tmp_path)
    assert not Lease(tmp_path).acquire(lambda: True)
    owner.release()


def test_a_store_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="TTA_STORE__PATH"):
        Lease(tmp_path / "file")
