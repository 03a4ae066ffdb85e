"""The rollout with a real registry, graphs and a server in this process; only the gates are told what to say."""

import copy

import numpy as np
import pytest
import torch

from tta_agent.control.commands import Command, CommandInbox
from tta_agent.core.errors import StoreError, SwapError
from tta_agent.core.messages import CandidateProposal
from tta_agent.core.types import GateResult, Label, Record
from tta_agent.drift.block_means import BlockMeans
from tta_agent.evaluation.decision import GateSet
from tta_agent.evaluation.recent import RecentRecords
from tta_agent.labels.requests import LabelRequest, drawn
from tta_agent.models.ort_sessions import HotSwapSession, open_session, run
from tta_agent.pipeline import checkpoint
from tta_agent.registry.registry import ModelRegistry
from tta_agent.registry.retry_queue import RetryQueue
from tta_agent.rollout import factory
from tta_agent.rollout.approval import Approval
from tta_agent.rollout.candidates import CandidateQueue
from tta_agent.rollout.controller import EVALUATED, RolloutController
from tta_agent.rollout.deployments import Deployments
from tta_agent.rollout.factory import EvaluationFactory, EvaluationSettings
from tta_agent.rollout.limits import RolloutLimits
from tta_agent.rollout.monitor import ServingMonitor
from tta_agent.rollout.operator import OperatorCommands
from tta_agent.rollout.promoter import CAMPAIGN, Promoter, PromotionRules
from tta_agent.rollout.regimes import LATEST, RegimeFollower
from tta_agent.rollout.wanted_labels import WantedLabels
from tta_agent.serving.deployment import ServedModel
from tta_agent.serving.drivers.session import SessionDriver
from tta_agent.stream.router import RoutedRecords
from tta_agent.telemetry.event_log import EventLog
from tta_agent.telemetry.facade import Telemetry
from tta_agent.testing import tiny_net


class Says:
    """A gate that is told what to say, and by whom it is asked."""

    def __init__(self, verdict="pass", proof=None):
        self.verdict, self.proof, self.asked = verdict, proof, 0

    def judge(self, evidence):
        self.asked += 1
        return GateResult("says", float(len(evidence.serving)), 0.0, self.verdict, "as it was told")


class World:
    """Everything of the rollout, on a clock of its own."""

    def __init__(
        self, folder, template, *, mode="always", vetoes=(), limits=None, settings=None, follows=True, **rules
    ):
        self.now_s = 1000.0
        self.template, self.folder = template, folder
        self.registry = ModelRegistry(folder / "versions")
        self.registry.ensure_source("f", lambda: (template.compose(tiny_net("batch")), template.fixed))
        serving = self.registry.get(self.registry.aliases()["serving"])
        self.pair = HotSwapSession(serving.number, open_session(serving.path))
        self.driver = SessionDriver(self.pair, open_session)
        self.journal = EventLog(folder)
        self.veto, self.proof = Says(), Says("inconclusive", "certified")
        off, clock = Telemetry.off(), lambda: self.now_s
        self.served = ServedModel(self.registry, self.driver, off, self.journal, template.fixed, open_session)
        settings = settings or EvaluationSettings(bake_records=50, bake_window=20)
        self.factory = EvaluationFactory(template, self.served, settings, vetoes=tuple(vetoes))
        self.limits = limits or RolloutLimits(cooldown_s=10)
        self.approval, self.inbox, self.deployments = Approval(mode), CommandInbox(folder), Deployments()
        self.detector = BlockMeans()
        self.regimes = RegimeFollower(
            self.served, self.deployments, self.detector, off, follows=follows, swaps=mode != "never",
            allowed=lambda: not (self.inbox.frozen() or self.limits.frozen(self.now_s)), retry_s=5.0, clock=clock,
        )  # fmt: skip
        self.monitor = ServingMonitor(
            self.served, self.factory, self.deployments, self.regimes, self.limits, every_s=5.0, clock=clock
        )
        self.queue = CandidateQueue(self.served, self.factory, self.regimes, off, 0.01)
        self.wanted = WantedLabels(None, clock)
        self.promoter = Promoter(
            self.served, self.queue, GateSet([self.veto, self.proof]), self.limits, self.approval, self.monitor,
            self.wanted, off, PromotionRules(rules.pop("patience", 1000), **rules),
            frozen=self.inbox.frozen, clock=clock,
        )  # fmt: skip
        operator = OperatorCommands(self.inbox, self.approval, self.monitor, self.served)
        self.rollout = RolloutController(
            self.served, operator, self.monitor, self.regimes, self.queue, self.promoter
        )
        self.sent = 0

    def propose(self, seed=1, *, early=False):
        """Another net of the same shape; early: of few records."""
        module = copy.deepcopy(tiny_net("batch"))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator))
        return self.rollout.on_proposal(CandidateProposal(module, {}, {"rounds": 1}, None, early))

    def records(self, n=20, size=1.0, teach=False):
        """Held-out records, or some that teach, `size` says of which kind; their names and inputs."""
        random = np.random.default_rng(self.sent)
        x = random.standard_normal((n, 1, 8, 8), dtype=np.float32) * np.float32(size)
        names = [f"r{self.sent + i}" for i in range(n)]
        some = [
            Record(name, self.now_s, x[i], None, None, name, None, "t", 0, self.sent + i)
            for i, name in enumerate(names)
        ]
        self.sent += n
        self.again = self.rollout.on_records(RoutedRecords(teach=some) if teach else RoutedRecords(held=some))
        return names, x

    def label(self, names, truths):
        labels = [Label(name, int(truth), self.now_s) for name, truth in zip(names, truths, strict=True)]
        return self.rollout.on_records(RoutedRecords(labels=labels))

    def answers(self, number, x):
        return run(open_session(self.registry.get(number).path), x).argmax(1)

    def names(self):
        return [event["event"] for event in self.journal.read_events()]

    def swap(self, seed=1):
        """A proven candidate comes into service."""
        self.propose(seed)
        self.proof.verdict = "pass"
        self.records()
        self.proof.verdict = "inconclusive"
        return self.pair.current()[0]


@pytest.fixture
def world(tmp_path, template):
    return World(tmp_path, template)


def test_what_is_proven_serves_and_is_watched_against_what_served_before(world):
    assert world.swap() == 1 == world.registry.aliases()["serving"]
    assert world.registry.get(1).proof == "certified"
    assert (world.monitor.bake.version.number, world.monitor.bake.baseline.number) == (1, 0)
    assert world.names() == ["candidate", "verdict", "swap"]


def test_an_outdated_candidate_gives_way_and_the_next_one_may_come_soon(world, monkeypatch):
    world.propose(1)
    world.records(64)
    monkeypatch.setattr(world.queue.running, "outdated_by", lambda newer: True)
    world.propose(2)
    assert world.queue.running is None and world.queue.unsettled
    assert world.journal.read_events()[-1]["outcome"] == "superseded"
    world.propose(3)
    assert world.queue.running.version.number == 2 and not world.queue.unsettled


def test_an_evaluation_in_which_nothing_was_decided_spends_no_alpha(world):
    for decided in (False, True):
        world.propose()
        alpha = world.queue.running.facts.alpha
        names, x = world.records()
        serving, candidate = world.answers(0, x), world.answers(world.queue.running.version.number, x)
        rows = np.flatnonzero((serving != candidate) == decided)
        world.label([names[i] for i in rows], candidate[rows])
        world.queue.end("expired")
        world.propose()
        assert (world.queue.running.facts.alpha < alpha) == decided
        world.queue.end("expired")


def test_one_failed_veto_rejects_whatever_is_proven(world):
    world.propose()
    world.proof.verdict, world.veto.verdict = "pass", "fail"
    world.records()
    assert world.registry.verdict(1)["outcome"] == "rejected"
    assert world.pair.current()[0] == 0


def test_in_mode_approve_somebody_must_say_yes(tmp_path, template):
    world = World(tmp_path, template, mode="ask")
    world.propose()
    world.proof.verdict = "pass"
    world.records()
    world.records()
    assert world.names() == ["candidate", "awaiting"]
    world.inbox.put(Command("approve", 1, "mia", "looks good"))
    world.rollout.on_records(RoutedRecords())
    assert world.pair.current()[0] == 1
    assert world.registry.verdict(1)["by"] == "mia"


def test_a_person_may_say_no(tmp_path, template):
    world = World(tmp_path, template, mode="ask")
    world.propose()
    world.proof.verdict = "pass"
    world.records()
    world.inbox.put(Command("reject", 1, "mia", "not today"))
    world.rollout.on_records(RoutedRecords())
    assert "not today" in world.registry.verdict(1)["outcome"]
    assert world.pair.current()[0] == 0


def test_a_candidate_that_waits_for_approval_is_still_tested(tmp_path, template):
    world = World(tmp_path, template, mode="ask")
    world.propose()
    world.proof.verdict = "pass"
    world.records()
    world.veto.verdict = "fail"
    world.records()
    assert world.registry.verdict(1)["outcome"] == "rejected"


def test_frozen_nothing_is_swapped_until_unfrozen(world):
    world.inbox.put(Command("freeze", None, "mia", "release day"))
    world.propose()
    world.proof.verdict = "pass"
    world.records()
    assert world.pair.current()[0] == 0
    world.inbox.put(Command("unfreeze", None, "mia", ""))
    world.rollout.on_records(RoutedRecords())
    world.rollout.on_records(RoutedRecords())
    assert world.pair.current()[0] == 1


def test_the_pace_holds_a_swap_back_and_loses_nothing(tmp_path, template):
    world = World(tmp_path, template, limits=RolloutLimits(min_interval_s=60))
    assert world.swap(1) == 1
    world.propose(2)
    world.proof.verdict = "pass"
    world.records()
    assert world.pair.current()[0] == 1
    world.now_s += 61
    world.rollout.on_records(RoutedRecords())
    assert world.pair.current()[0] == 2


def test_labels_take_a_bad_version_back_and_adaptation_starts_over(world):
    world.swap()
    names, x = world.records(40)
    right = world.answers(0, x)
    assert world.label(names, right)
    assert world.pair.current()[0] == 0 == world.registry.aliases()["serving"]
    assert world.registry.is_withdrawn(1)
    assert not world.promoter.wants_candidate()
    world.now_s += 10
    assert world.promoter.wants_candidate()


def test_labels_of_records_that_teach_take_a_bad_version_back_and_its_successor_ends(world):
    world.swap()
    world.propose(2)
    x = np.random.default_rng(5).standard_normal((60, 1, 8, 8), dtype=np.float32)
    names = [f"taught{i}" for i in range(60)]
    taught = [
        Record(name, world.now_s, x[i], None, None, name, None, "t", 0, 900 + i)
        for i, name in enumerate(names)
    ]
    world.rollout.on_records(RoutedRecords(teach=taught))
    evaluation = world.queue.running
    assert world.label(names, world.answers(0, x))
    assert world.pair.current()[0] == 0 and evaluation.pairs.labels == 0


def teaching(world, n, key=None):
    """Records that teach, each of an entity of its own or all of one; names and inputs."""
    x = np.random.default_rng(world.sent).standard_normal((n, 1, 8, 8), dtype=np.float32)
    names = [f"r{world.sent + i}" for i in range(n)]
    some = [
        Record(name, world.now_s, x[i], None, None, key or name, None, "t", 0, world.sent + i)
        for i, name in enumerate(names)
    ]
    world.sent += n
    world.rollout.on_records(RoutedRecords(teach=some))
    return names, x


def test_records_that_teach_the_copy_are_evidence_for_a_candidate_that_is_older(world):
    names, x = teaching(world, 20)
    world.propose()
    world.label(names, world.answers(0, x))  # it may have learnt from these
    pairs = world.queue.running.pairs
    assert (pairs.records, pairs.labels) == (0, 0)
    names, x = teaching(world, 20)
    world.label(names, world.answers(0, x))
    differ = (world.answers(0, x) != world.answers(1, x)).sum()
    assert (pairs.records, pairs.labels, pairs.losses) == (20, 20, differ)


def test_not_where_the_candidate_has_learnt_from_their_entity(tmp_path, template, world):
    teaching(world, 5, key="camera")
    world.propose()
    again = World(tmp_path, template)
    assert again.rollout.load_state_dict(world.rollout.state_dict())
    for one in (world, again):
        teaching(one, 5, key="camera")
        teaching(one, 5, key="scanner")
        teaching(one, 5, key="scanner")  # it has taught the copy meanwhile, but not the candidate
        assert one.queue.running.pairs.records == 10
        again.sent = 5


def test_a_share_of_the_records_that_teach_is_drawn_by_a_salted_hash(world):
    world.propose()
    world.rollout._share, world.rollout._salt = 0.3, b"secret"
    names, _ = teaching(world, 400)
    evaluated = list(world.queue.running.pairs._seen)
    assert evaluated == [name for name in names if drawn(name, 0.3, b"secret", EVALUATED)]
    assert evaluated != [name for name in names if drawn(name, 0.3, b"guessed", EVALUATED)]
    assert 80 < len(evaluated) < 160
    world.records(20)
    assert world.queue.running.pairs.records == len(evaluated) + 20  # held-out ones always


def test_held_out_and_teaching_records_stand_in_order_of_arrival(world):
    world.propose()
    x = np.random.default_rng(3).standard_normal((30, 1, 8, 8), dtype=np.float32)
    some = [Record(f"r{i}", world.now_s, x[i], None, None, f"r{i}", None, "t", 0, i) for i in range(30)]
    world.rollout.on_records(RoutedRecords(teach=some[1::2], held=some[::2]))
    pairs = world.queue.running.pairs
    assert list(pairs.tenants) == [f"r{i}" for i in range(30)]
    assert np.allclose(pairs.window("serving"), run(open_session(world.registry.get(0).path), x), atol=1e-5)


@pytest.fixture
def keeping(tmp_path, template):
    """A rollout that keeps recent held-out records, while a regime is known."""
    world = World(tmp_path, template)
    world.queue.recent = RecentRecords(10**6)
    return world


def test_labels_of_held_out_records_from_before_its_birth_count_for_a_candidate(tmp_path, template, keeping):
    early, x = keeping.records(20)
    later, y = keeping.records(20)
    keeping.label(early, keeping.answers(0, x))
    teaching(keeping, 20)
    again = World(tmp_path, template)
    again.queue.recent = RecentRecords(10**6)
    assert again.rollout.load_state_dict(keeping.rollout.state_dict())
    for world in (keeping, again):
        world.propose()
        pairs = world.queue.running.pairs
        assert (pairs.records, pairs.labels, world.promoter.labels_used) == (40, 20, 20)
        losses = pairs.losses
        world.label([*early, *later], [*world.answers(0, x), *world.answers(0, y)])
        differ = (world.answers(0, y) != world.answers(world.queue.running.version.number, y)).sum()
        assert (pairs.records, pairs.labels, pairs.losses - losses) == (40, 40, differ)


def test_not_those_of_records_from_before_the_last_change(keeping):
    keeping.records(640)
    keeping.records(64, size=4.0)
    kept = len(keeping.queue.recent.records)
    keeping.propose()
    assert keeping.queue.running.pairs.records == kept == 64


def test_labels_of_recent_disagreements_are_wanted_when_a_candidate_is_born(keeping):
    keeping.wanted.requests = wishes = Wishes()
    names, x = keeping.records()
    wishes.heard.clear()
    keeping.propose()
    assert wishes.heard == list(zip(names, keeping.answers(0, x), keeping.answers(1, x), strict=True))
    wishes.heard.clear()
    keeping.propose()  # another one runs
    assert not wishes.heard


def test_labels_of_any_record_are_wanted_for_a_campaign_then_of_held_out_ones(tmp_path, template, world):
    world.wanted.requests = wishes = Wishes()
    world.propose()
    teaching(world, 20)
    assert 0 < world.queue.running.requested <= 20 == len(wishes.heard)
    while world.queue.running.requested < CAMPAIGN:
        teaching(world, 20)
    world.wanted.requests = None
    again = World(tmp_path, template)
    assert again.rollout.load_state_dict(world.rollout.state_dict())
    again.wanted.requests, again.sent = wishes, world.sent
    wishes.heard.clear()
    teaching(again, 20)
    assert not wishes.heard
    names, _ = again.records(20)
    assert [name for name, _, _ in wishes.heard] == names


def test_a_candidate_waits_for_its_first_label_where_labels_come_late(tmp_path, template):
    world = World(tmp_path, template, patience=40)
    for labelled in (False, True):
        world.propose()
        number = world.queue.running.version.number
        if labelled:
            world.label(["somebody"], [0])
        world.records(60)
        assert (world.queue.running is None) == (not labelled)
    assert world.registry.verdict(number - 1)["outcome"] == "expired"
    world.records(100)
    assert world.registry.verdict(number)["outcome"] == "expired"


def test_going_back_goes_to_the_last_proven_version(world):
    world.swap(1)
    world.records(60)
    world.swap(2)
    assert world.monitor.bake.baseline.number == 1
    names, x = world.records(40)
    world.label(names, world.answers(1, x))
    assert world.pair.current()[0] == 1
    assert world.monitor.bake.baseline.number == 0


def test_a_version_that_lasts_is_confirmed_once(world):
    world.swap()
    for _ in range(5):
        world.records()
    assert world.names().count("confirmed") == 1


def test_a_stream_that_alternates_costs_ever_fewer_swaps(tmp_path, template):
    """Each swap is right for one world and wrong for the next: the cool-down doubles, swaps grow like a logarithm."""
    world = World(tmp_path, template, limits=RolloutLimits(cooldown_s=10))
    worlds = 0
    for _ in range(64):
        if world.promoter.wants_candidate():
            world.swap(1)
            names, x = world.records(40)
            world.label(names, world.answers(0, x))  # the world has changed: the source is right
            worlds += 1
        world.now_s += 50
    assert world.pair.current()[0] == 0
    assert worlds <= 9


def test_a_server_that_answers_otherwise_is_put_right(world):
    world.pair.stage(9, open_session(world.template.compose(tiny_net("batch", seed=5))))
    world.pair.switch(9)
    world.now_s += 6
    world.rollout.on_records(RoutedRecords())
    assert world.pair.current()[0] == 0
    assert "realigned" in world.names()


def test_a_server_that_cannot_be_reached_changes_nothing(world, monkeypatch):
    world.swap()

    def gone():
        raise SwapError("no route")

    monkeypatch.setattr(world.driver, "live", gone)
    world.now_s += 6
    assert not world.rollout.on_records(RoutedRecords())
    assert world.registry.aliases()["serving"] == 1


def test_a_roll_back_by_command(world):
    world.swap()
    world.inbox.put(Command("rollback", None, "mia", "complaints"))
    assert world.rollout.on_records(RoutedRecords())
    assert world.pair.current()[0] == 0
    event = world.journal.read_events()[-1]
    assert (event["event"], event["by"], event["reason"]) == ("rollback", "mia", "complaints")


def test_a_roll_back_with_nothing_before_is_refused(world):
    world.inbox.put(Command("rollback", None, "mia", ""))
    assert not world.rollout.on_records(RoutedRecords())
    assert world.names() == ["rollback_refused"]


def test_a_reset_by_command_ends_the_evaluation(world):
    world.propose()
    world.records()
    world.inbox.put(Command("reset", None, "mia", ""))
    assert world.rollout.on_records(RoutedRecords())
    assert world.queue.running is None


def test_a_failed_swap_leaves_the_old_version_and_cools_down(world, monkeypatch):
    def refuse(*_):
        raise SwapError("disk full")

    monkeypatch.setattr(world.driver, "publish", refuse)
    assert world.swap() == 0
    assert world.registry.verdict(1)["outcome"] == "swap failed"
    assert not world.promoter.wants_candidate()


@pytest.mark.parametrize(("seconds", "turns"), [(1.0, 60), (0.5, 60), (1.5, 120)])
def test_a_busy_machine_does_not_make_a_candidate_slow(monkeypatch, seconds, turns):
    now, runs = [0.0], []

    def busy_at_first(session, x):
        runs.append(session)
        now[0] += (seconds if session == "candidate" else 1.0) + (session == "candidate" and len(runs) < 40)

    monkeypatch.setattr(factory, "run", busy_at_first)
    monkeypatch.setattr(factory.time, "perf_counter", lambda: now[0])
    assert factory._latency_ratio("candidate", "serving", None) == pytest.approx(seconds)
    assert len(runs) == turns


def test_evaluation_watch_and_pace_survive_a_restart(tmp_path, template, world):
    world.swap(1)
    world.propose(2)
    names, x = world.records()
    world.label(names[:1], world.answers(0, x)[:1])
    again = World(tmp_path, template)
    assert again.rollout.load_state_dict(world.rollout.state_dict())
    assert again.queue.running.version == world.queue.running.version
    assert again.queue.running.pairs.labels == 1
    assert again.monitor.bake.version.number == 1
    assert again.monitor.bake.pairs.records == world.monitor.bake.pairs.records


def test_the_watch_of_a_swap_after_the_checkpoint_begins_at_the_restart(tmp_path, template, world):
    state = world.rollout.state_dict()
    world.swap(1)
    again = World(tmp_path, template)
    assert again.rollout.load_state_dict(state)
    assert (again.monitor.bake.version.number, again.monitor.bake.baseline.number) == (1, 0)


BAD = GateResult("says", 0.0, 1.0, "fail", "it has become worse")


class Away:
    """The registry's storage, whose store can be away."""

    def __init__(self, storage):
        self._storage, self.away, self.full = storage, False, False

    def __getattr__(self, name):
        asks, writes = ("numbers", "exists"), ("add", "write", "remove")
        if (self.away and name in (*asks, *writes)) or (self.full and name in writes):
            raise StoreError("the store is away")
        return getattr(self._storage, name)


@pytest.fixture
def store(world):
    world.registry.storage = Away(world.registry.storage)
    world.served.backlog = RetryQueue(again_s=0.0)
    return world.registry.storage


def test_a_candidate_that_cannot_be_stored_is_none(world, store):
    store.away = True
    world.propose()
    assert world.queue.running is None
    store.away = False
    world.propose()
    assert world.queue.running is not None


def test_a_proven_candidate_waits_for_the_store(world, store):
    world.propose()
    world.proof.verdict, store.away = "pass", True
    world.records()
    assert world.pair.current()[0] == 0
    store.away = False
    world.records()
    assert world.pair.current()[0] == world.registry.aliases()["serving"] == 1


def test_a_version_that_cannot_be_recorded_does_not_serve(world, store):
    world.propose()
    world.proof.verdict, store.full = "pass", True
    world.records()
    assert world.pair.current()[0] == world.served.version.number == 0
    assert world.names()[-2:] == ["swap_failed", "verdict"]
    store.full = False
    world.now_s += 100.0
    assert world.swap(2) == world.registry.aliases()["serving"] == 2  # and the next one may
    assert world.registry.verdict(1)["outcome"] == "swap failed"


def test_a_roll_back_happens_though_the_registry_cannot_be_told_yet(world, store):
    assert world.swap() == 1
    store.away = True
    assert world.monitor.take_back(world.served.source, BAD, "agent")
    world.records()
    assert world.pair.current()[0] == world.served.version.number == 0
    assert not world.again  # the registry's older word is no command
    store.away = False
    world.records()
    assert world.registry.aliases()["serving"] == 0
    assert world.registry.is_withdrawn(1)


def test_what_somebody_else_decided_is_followed_when_the_store_can_be_read(world, store):
    assert world.swap() == 1
    ModelRegistry(world.folder / "versions").serve(0, by="somebody", reason="told to")
    store.away = True
    world.records()
    assert not world.again and world.served.version.number == 1
    store.away = False
    world.records()
    assert world.again and world.served.version.number == 0


def test_changes_wait_for_the_store_in_their_order():
    now, done, away = [0.0], [], [True]

    def change(name):
        if away[0]:
            raise StoreError("away")
        done.append(name)

    backlog = RetryQueue(again_s=30.0, clock=lambda: now[0])
    backlog.write(lambda: change("first"))
    away[0] = False
    backlog.write(lambda: change("second"))
    assert not done  # half a minute is not over
    now[0] = 30.0
    assert backlog.clear()
    assert done == ["first", "second"]


def swapped_at_home(world, seed=1):
    """A version that was proven on records of the usual kind, and has served them for a while."""
    world.records(640)
    number = world.swap(seed)
    world.records(640)
    assert world.pair.current()[0] == number
    return number


def test_the_source_serves_where_nothing_is_proven_and_the_version_comes_back_with_its_records(world):
    assert swapped_at_home(world) == 1
    world.records(64, size=4.0)
    assert world.pair.current()[0] == world.registry.aliases()["serving"] == 0
    assert not world.again and not world.registry.is_withdrawn(1)
    assert world.promoter.wants_candidate()  # no cool-down
    world.records(640, size=4.0)
    assert world.pair.current()[0] == 0
    world.records(96)
    assert world.pair.current()[0] == world.registry.aliases()["serving"] == 1
    moves = [event for event in world.journal.read_events() if event["event"] in ("fallback", "reinstated")]
    assert [(event["event"], event["version"], event["before"]) for event in moves] == [
        ("fallback", 0, 1),
        ("reinstated", 1, 0),
    ]
    assert "of another kind" in moves[0]["reason"] and "again of the kind" in moves[1]["reason"]


def test_a_version_comes_back_though_its_file_has_made_room_for_others(world):
    assert swapped_at_home(world) == 1
    file = world.monitor.bake.version.path
    world.records(640, size=4.0)
    world.propose(2)
    world.proof.verdict = "pass"
    world.records(20, size=4.0)
    assert world.pair.current()[0] == 2
    world.records(640, size=16.0)
    world.veto.verdict = "fail"
    for seed in range(3, 9):
        world.propose(seed)
        world.records(64, size=16.0)
    assert not file.exists() and world.pair.current()[0] == 0
    world.records(160)
    assert world.pair.current()[0] == 1 and "swap_failed" not in world.names()


def test_an_evaluation_waits_while_records_of_another_kind_arrive_and_goes_on_with_its_own(world):
    world.records(640)
    world.propose()
    names, x = world.records(64)
    alpha = world.queue.running.facts.alpha
    world.proof.verdict = "pass"
    world.records(64, size=4.0)
    assert world.queue.running is None and world.pair.current()[0] == 0
    assert world.queue.unsettled  # the next candidate may come soon
    differ = np.flatnonzero(world.answers(0, x) != world.answers(1, x))
    assert not world.label([names[i] for i in differ], world.answers(1, x)[differ])
    assert world.promoter.labels_used == len(differ) > 0  # late labels speak of it all the same
    world.records(320, size=4.0)
    assert world.pair.current()[0] == 0 and world.registry.undecided() == [1]
    world.proof.verdict = "inconclusive"
    world.records(96)
    evaluation = world.queue.running
    assert (evaluation.version.number, evaluation.facts.alpha, evaluation.pairs.wins) == (
        1,
        alpha,
        len(differ),
    )
    assert not world.queue.unsettled
    world.proof.verdict = "pass"
    world.records(16)
    assert world.pair.current()[0] == 1
    told = ["candidate", "drift", "suspended", "drift", "continued", "verdict", "swap"]
    assert world.names() == told


def test_of_many_records_that_teach_the_source_is_asked_about_the_latest(world, monkeypatch):
    seen = []
    features = world.detector.features
    monkeypatch.setattr(world.detector, "features", lambda logits, x: seen.append(x) or features(logits, x))
    for n in (LATEST - 1, 3 * LATEST):
        _, x = world.records(n, teach=True)
        assert np.array_equal(seen.pop(), x[-LATEST:])


def test_of_four_evaluations_that_wait_the_oldest_gives_way(world):
    for i in range(4):
        world.records(640, size=4.0**i)
        world.propose(i)
        world.records(64, size=4.0**i)
    world.records(64, size=4.0**4)
    assert world.names() == ["candidate", "drift", "suspended"] * 4 + ["verdict"]
    assert world.registry.verdict(1)["outcome"] == "superseded" and world.registry.undecided() == [2, 3, 4]


def test_the_domain_of_a_evaluation_grows_with_each_turn(world):
    world.records(480)
    world.propose()
    world.records(64)
    known = []
    for _ in range(2):
        world.records(64, size=4.0)
        [evaluation] = world.queue.suspended
        known.append(len(evaluation.regime.blocks))
        for _ in range(20):
            world.records(16)
    assert known[0] == 68 and known[1] > 68 + 16


def test_of_several_evaluations_whose_records_are_back_the_one_with_most_labels_goes_on(world):
    world.records(640)
    for seed in (1, 2):
        world.propose(seed)
        names, x = world.records(64)
        world.label(names[: 40 // seed], world.answers(0, x)[: 40 // seed])
        world.records(64, size=4.0)
        if seed == 1:
            world.queue.suspended[0].opponent = 7  # it stays away once
            world.records(320)
            world.queue.suspended[0].opponent = 0
    for _ in range(12):
        world.records(16)
    assert world.queue.running.version.number == 1


def test_an_evaluation_goes_on_against_the_version_that_it_was_tried_against(world):
    swapped_at_home(world)
    world.propose(2)
    world.records(64)
    assert (world.queue.running.version.number, world.queue.running.opponent) == (2, 1)
    world.records(640, size=4.0)
    assert world.pair.current()[0] == 0 and world.queue.running is None
    for _ in range(12):
        world.records(16)
        assert (world.queue.running is not None) == (world.pair.current()[0] == 1)
    assert (world.queue.running.version.number, world.pair.current()[0]) == (2, 1)


def back_home_after_a_proof_elsewhere(world):
    """A evaluation waits while version 2 is proven on other records, and its own come back. Its alpha."""
    world.records(640)
    world.propose()
    alpha = world.queue.running.facts.alpha
    world.records(64)
    world.records(640, size=4.0)
    assert world.queue.running is None
    world.propose(2)
    world.proof.verdict = "pass"
    world.records(20, size=4.0)
    assert world.pair.current()[0] == 2
    world.proof.verdict = "inconclusive"
    world.records(640, size=4.0)
    for _ in range(12):
        world.records(16)
    return alpha


def test_an_evaluation_that_waited_gives_nothing_back_to_the_budget_after_a_promotion(world):
    alpha = back_home_after_a_proof_elsewhere(world)
    assert world.queue.running.version.number == 1  # it goes on, and nothing is decided
    world.inbox.put(Command("reset", None, "mia", ""))
    world.records(16)
    assert world.registry.verdict(1)["outcome"] == "overruled"
    world.propose(3)
    assert world.queue.running.facts.alpha == pytest.approx(alpha)


def test_after_a_restart_a_evaluation_still_has_its_opponent(tmp_path, template, world):
    swapped_at_home(world)
    world.propose(2)
    world.records(64)
    world.records(64, size=4.0)
    assert world.pair.current()[0] == 0
    again = World(tmp_path, template)
    assert again.rollout.load_state_dict(world.rollout.state_dict())
    [evaluation] = again.queue.suspended
    x = np.ones((1, 1, 8, 8), np.float32)
    expected = run(open_session(again.registry.get(1).path), x)
    assert np.allclose(run(evaluation.pairs.graphs["serving"], x), expected, atol=1e-5)


def test_an_evaluation_remembers_where_its_proposal_was_traced(world):
    world.rollout.on_proposal(CandidateProposal(tiny_net("batch"), {}, {"rounds": 1}, "00-trace"))
    assert world.queue.running.carrier == "00-trace"


def test_an_evaluation_does_not_go_on_before_its_opponent_serves_again(world):
    swapped_at_home(world)
    for _ in range(3):  # worlds in quick turns: version 1 takes its time to come back
        world.records(480, size=4.0)
        world.records(320)
    while world.pair.current()[0] != 1:
        world.records(16)
    world.propose(2)
    world.records(64)
    assert world.queue.running.opponent == 1
    world.records(320, size=4.0)
    waited = 0
    while world.pair.current()[0] != 1:
        assert world.queue.running is None
        world.records(16)
        waited += 16
    assert waited > 96 and world.queue.running.version.number == 2


def test_an_evaluation_goes_on_where_another_version_was_proven_elsewhere_meanwhile(world):
    back_home_after_a_proof_elsewhere(world)
    assert (world.pair.current()[0], world.queue.running.version.number) == (0, 1)


def test_what_is_approved_while_its_records_are_away_serves_when_they_are_back(tmp_path, template):
    world = World(tmp_path, template, mode="ask")
    world.records(640)
    world.propose()
    world.proof.verdict = "pass"
    world.records(20)
    assert world.journal.now()["awaiting"] == 1
    world.records(64, size=4.0)
    assert world.journal.now()["awaiting"] is None
    world.inbox.put(Command("approve", 1, "mia", ""))
    world.records(320, size=4.0)
    assert world.pair.current()[0] == 0
    for _ in range(12):
        world.records(16)
    assert world.pair.current()[0] == 1 and world.registry.verdict(1)["by"] == "mia"


def test_when_adaptation_starts_over_nobody_waits(world):
    world.records(640)
    world.propose()
    world.records(64)
    world.records(64, size=4.0)
    world.inbox.put(Command("reset", None, "mia", ""))
    world.records(16, size=4.0)
    assert (
        world.again and world.registry.verdict(1)["outcome"] == "overruled" and not world.registry.undecided()
    )


def test_evaluations_that_wait_survive_a_restart(tmp_path, template, world):
    world.records(640)
    world.propose()
    world.records(64)
    world.records(64, size=4.0)
    again = World(tmp_path, template)
    again.sent = world.sent
    assert again.rollout.load_state_dict(world.rollout.state_dict())
    again.queue.clear_up()
    assert again.registry.undecided() == [1]
    again.records(640)
    again.proof.verdict = "pass"
    again.records(16)
    assert again.pair.current()[0] == 1


def test_a_version_is_tried_against_the_source_where_the_source_serves(world):
    swapped_at_home(world)
    world.records(64, size=4.0)
    world.propose(2)
    world.records(640, size=4.0)
    world.proof.verdict = "pass"
    world.records(20, size=4.0)
    assert world.pair.current()[0] == 2
    assert world.monitor.bake.baseline.number == 0
    world.records(640, size=4.0)
    world.records(64)
    assert world.pair.current()[0] == 0  # it leaves where it was proven
    world.records(96)
    assert world.pair.current()[0] == 1  # which is where the first one was
    world.records(64, size=4.0)
    world.records(96, size=4.0)
    assert world.pair.current()[0] == 2


def test_worlds_in_quick_turns_cost_ever_fewer_swaps(world):
    swapped_at_home(world)
    for _ in range(40):
        world.records(480, size=4.0)
        world.records(480)
    moves = [name for name in world.names() if name in ("fallback", "reinstated")]
    assert 3 <= len(moves) <= 8
    world.records(2100)  # a long turn: it comes back, and the next quick return is believed again
    assert world.pair.current()[0] == 1
    world.records(64, size=4.0)
    world.records(96)
    assert world.pair.current()[0] == 1


def test_labels_speak_of_a_version_that_does_not_serve_and_it_never_comes_back(world):
    world.records(640)
    world.swap()
    names, x = world.records(64)
    world.records(64, size=4.0)
    assert world.pair.current()[0] == 0
    assert world.label(names, world.answers(0, x))
    assert world.registry.is_withdrawn(1) and not world.promoter.wants_candidate()
    world.records(320)
    assert world.pair.current()[0] == 0
    assert world.names()[-1] == "withdrawn"


def test_nothing_comes_back_while_swaps_are_frozen(world):
    swapped_at_home(world)
    world.inbox.put(Command("freeze", None, "mia", "release"))
    world.records(64, size=4.0)
    assert world.pair.current()[0] == 0  # away from it is a roll-back
    world.records(320)
    assert world.pair.current()[0] == 0
    world.inbox.put(Command("unfreeze", None, "mia", ""))
    world.records(64)
    assert world.pair.current()[0] == 1


def test_a_server_that_refuses_the_source_is_asked_again_but_not_at_every_block(world, monkeypatch):
    swapped_at_home(world)
    publish, tried = world.driver.publish, []

    def refuse(*_):
        tried.append(world.now_s)
        raise SwapError("no route")

    monkeypatch.setattr(world.driver, "publish", refuse)
    for _ in range(3):
        world.records(64, size=4.0)
    assert len(tried) == 1 and world.pair.current()[0] == world.served.version.number == 1
    monkeypatch.setattr(world.driver, "publish", publish)
    world.now_s += 6
    world.records(64, size=4.0)
    assert world.pair.current()[0] == world.registry.aliases()["serving"] == 0


def test_in_shadow_evaluations_wait_for_their_records_but_nothing_moves(tmp_path, template):
    world = World(tmp_path, template, mode="never")
    world.records(640)
    world.propose()
    world.records(64, size=4.0)
    assert world.names() == ["candidate", "drift", "suspended"] and world.pair.current()[0] == 0


def test_who_goes_back_by_command_is_not_contradicted_by_the_records(world):
    swapped_at_home(world)
    world.inbox.put(Command("rollback", 0, "mia", "complaints"))
    for _ in range(5):
        world.records(96)
    assert world.pair.current()[0] == 0


def test_no_version_comes_back_after_somebody_else_has_moved_the_alias(world):
    swapped_at_home(world)
    world.registry.serve(0, by="mia")
    world.pair.switch(0)
    world.records(960)
    assert world.again or world.pair.current()[0] == world.registry.aliases()["serving"] == 0
    world.records(320)
    assert world.pair.current()[0] == 0


def test_a_command_back_to_the_source_holds_though_an_older_version_would_fit(world):
    swapped_at_home(world)
    assert world.swap(2) == 2
    world.inbox.put(Command("rollback", 0, "mia", "complaints"))
    world.records(640)
    assert world.pair.current()[0] == 0


def test_an_evaluation_against_the_source_ends_when_a_version_comes_back(world):
    swapped_at_home(world)
    world.records(640, size=4.0)
    world.records(32)  # the change is seen, and one block does not bring the version back
    world.propose(2)
    assert world.queue.running is not None and world.pair.current()[0] == 0
    world.records(96)
    assert world.pair.current()[0] == 1
    assert world.queue.running is None and world.registry.verdict(2)["outcome"] == "superseded"


def test_a_version_follows_slow_drift_and_leaves_at_once_with_a_jump_back(world):
    swapped_at_home(world)
    for i in range(600):
        world.records(32, size=1.0 + i / 600)
    assert world.pair.current()[0] == 1
    assert world.names().count("fallback") <= 1  # an alarm in twenty thousand records may be false
    world.records(128)
    assert world.pair.current()[0] == 0


def test_nothing_comes_back_that_was_given_up_while_the_agent_was_away(tmp_path, template, world):
    swapped_at_home(world)
    world.records(64)
    state = world.rollout.state_dict()
    world.registry.serve(0, by="mia")
    again = World(tmp_path, template)
    again.sent = world.sent
    assert not again.rollout.load_state_dict(state)
    again.records(640)
    assert again.pair.current()[0] == 0


def test_a_source_that_took_over_after_the_checkpoint_is_no_roll_back(tmp_path, template, world):
    swapped_at_home(world)
    state = world.rollout.state_dict()
    world.records(64, size=4.0)
    assert world.pair.current()[0] == world.registry.aliases()["serving"] == 0
    again = World(tmp_path, template)
    assert again.rollout.load_state_dict(state)  # what was learnt stays
    again.sent = world.sent
    again.records(640)
    assert again.pair.current()[0] == 1


@pytest.mark.parametrize("by", ["agent", "mia"])
def test_what_was_learnt_goes_with_a_version_that_was_taken_back(tmp_path, template, world, by):
    swapped_at_home(world)
    state = world.rollout.state_dict()
    if by == "agent":
        assert world.monitor.take_back(world.served.source, BAD, "agent")
    else:
        world.registry.serve(0, by=by, reason="complaints")
    assert not World(tmp_path, template).rollout.load_state_dict(state)


def test_drift_is_told_with_what_has_changed(world):
    world.records(640)
    world.records(64, size=4.0)
    (event,) = [event for event in world.journal.read_events() if event["event"] == "drift"]
    assert event["distance"] == max(event["features"].values()) > 8
    assert event["features"]["deviation"] > event["features"]["mean"] and 640 < event["records"] <= 704


def test_drift_is_told_though_no_version_follows_it(tmp_path, template):
    world = World(tmp_path, template, mode="never", follows=False)
    world.records(640)
    world.propose()
    world.records(64, size=4.0)
    assert world.names() == ["candidate", "drift"] and world.queue.running is not None


def test_events_with_a_former_name_say_so(world):
    world.records(640)
    world.propose()
    world.records(64)
    world.records(64, size=4.0)
    event = world.journal.read_events()[-1]
    assert (event["event"], event["formerly"]) == ("suspended", "adjourned")


def test_a_checkpoint_of_the_format_before_is_read(tmp_path, template, world):
    swapped_at_home(world)
    world.propose(2)
    world.records(64)
    world.records(64, size=4.0)
    world.propose(3)
    world.records(64, size=4.0)
    state = world.rollout.state_dict()
    before = {now: old for old, now in checkpoint.FORMER.items()} | {"deployments": "posts"}
    file = tmp_path / "c.pt"
    older = {
        "court": _as_before(state["promoter"], before),
        "sentry": _as_before(state["monitor"], before),
    }
    content = {"format": 5, "fingerprint": "f", "learner": {"done": []}, "positions": {("t", 0): 7}, **older}
    torch.save(content, file)
    found = checkpoint.load(file, "f")
    assert found["positions"] == {("t", 0): 7} and found["learner"] == {"done": []}
    again = World(tmp_path, template)
    assert again.rollout.load_state_dict(found)
    assert again.rollout.state_dict()["promoter"]["queue"].keys() == state["promoter"]["queue"].keys()
    assert again.queue.running.version.number == 3 and again.queue.suspended[0].version.number == 2
    assert again.queue.suspended[0].regime.blocks.shape == world.queue.suspended[0].regime.blocks.shape
    assert again.monitor.state_dict()["limits"] == world.monitor.state_dict()["limits"]
    seen, again.sent = again.queue.running.pairs.records, world.sent
    teaching(again, 5, key="camera")  # nobody knows whether it has taught the candidate
    assert again.queue.running.pairs.records == seen


def _as_before(value, names):
    """Under the names of format 5, with its form of two values."""
    if isinstance(value, dict):
        found = {names.get(name, name): _as_before(inner, names) for name, inner in value.items()}
        if "looks" in found:
            found |= {"looks": (found["looks"], 0), "domain": found["domain"] or []}
        return found
    return (
        type(value)(_as_before(inner, names) for inner in value) if isinstance(value, list | tuple) else value
    )


def test_where_a_version_belongs_survives_a_restart(tmp_path, template, world):
    swapped_at_home(world)
    world.records(64, size=4.0)
    assert world.pair.current()[0] == 0
    again = World(tmp_path, template)
    again.sent = world.sent
    assert again.rollout.load_state_dict(world.rollout.state_dict())
    again.records(64, size=4.0)
    assert again.pair.current()[0] == 0
    again.records(96)
    assert again.pair.current()[0] == 1 == again.monitor.bake.version.number


def test_it_can_be_told_to_stay(tmp_path, template):
    world = World(tmp_path, template, follows=False)
    swapped_at_home(world)
    world.records(320, size=4.0)
    assert world.pair.current()[0] == 1


class Wishes:
    """Hears of which records labels are wanted."""

    def __init__(self):
        self.heard = []

    def consider(self, records, serving, others, now_s):
        rows = list(zip([record.id for record in records], serving, others, strict=True))
        self.heard += rows
        differ = [row for row in rows if row[2] not in (row[1], None)]
        return [LabelRequest(name, "disagreement", now_s, one, other, None) for name, one, other in differ]

    def asked(self, id):
        return id in [name for name, _, _ in self.heard]

    def state_dict(self):
        return {"heard": self.heard}

    def load_state_dict(self, state):
        self.heard = list(state["heard"])


def test_while_a_version_bakes_a_few_labels_are_wanted_where_it_disagrees_with_the_one_before(world):
    world.wanted.requests = wishes = Wishes()
    world.propose()
    names, x = world.records()
    assert wishes.heard == list(zip(names, world.answers(0, x), world.answers(1, x), strict=True))
    world.proof.verdict = "pass"
    world.records()
    world.proof.verdict = "inconclusive"
    world.propose(2)
    wishes.heard.clear()
    names, x = world.records(40)
    before, served, tried = (world.answers(number, x).tolist() for number in (0, 1, 2))
    for (name, one, other), was, now, candidate in zip(wishes.heard, before, served, tried, strict=True):
        assert one == now
        assert other == (was if now == candidate and drawn(name, 0.1) else candidate)
    assert any(
        other not in (now, t) for (_, _, other), now, t in zip(wishes.heard, served, tried, strict=True)
    )
    world.records(40)  # it has lasted
    wishes.heard.clear()
    names, x = world.records(40)
    assert [other for _, _, other in wishes.heard] == world.answers(2, x).tolist()
