"""Groups of settings about the decision: labels, gates, bake, HTTP interface and webhooks."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr

from tta_agent.settings.data_groups import Group, Options
from tta_agent.settings.secret import WebhookUrl
from tta_agent.settings.values import Topic


class LabelSettings(Group):
    """Joining of late labels, and requests for labels."""

    horizon_s: float = Field(default=7 * 86_400.0, gt=0)
    """A label that comes later than this after its inference is counted, but not used."""
    bucket_s: float = Field(default=60.0, ge=0)
    """One label counts for each entity and stretch of this length: near-duplicates are no evidence."""
    requests_per_day: int = Field(default=200, ge=0)
    """Records whose label the agent asks for, at most; 0 for none."""
    requests_uniform: float = Field(default=0.01, ge=0, le=1)
    """Share of records that is asked for at random, beside the disagreements."""
    requests_topic: Topic | None = None
    """Topic for the requests; <store>/label-requests.jsonl where not given."""


class GateSettings(Group):
    """Gates of a candidate, and limits of swaps."""

    gates: list[str] = [
        "integrity", "disagreement", "collapse", "histogram", "concentration", "forgetting", "flips", "calibration",
        "rank", "health", "influence", "certificate", "rehearsed",
    ]  # fmt: skip
    """Names or module:Class. All must pass; of the proofs (certificate, average, rehearsed, guarded) one kind."""
    options: Options = {}
    """Constructor arguments by gate, for instance {"collapse": {"ratio": 0.9}}."""
    alpha: float = Field(default=0.01, gt=0, lt=0.5)
    """Bound on the probability of promoting a candidate that is not better, between two promotions, for each regime
    of records."""
    worst_class: float = Field(default=0.2, gt=0, lt=1)
    """Fall of a class's recall that labels have to rule out (0.2: 20 points). Less asks for more labels of each
    class."""
    evaluate_share: float = Field(default=1.0, ge=0, le=1)
    """Share of the records that teach, on which a candidate is evaluated as on held-out ones: it is older than these
    records. Less costs fewer forward passes and more time until a proof."""
    recent_bytes: int = Field(default=32 * 2**20, ge=0)
    """Bytes of held-out records since the last change of what arrives. A new candidate answers them, so that labels
    of records before its birth count; 0 keeps none. They stand in the checkpoint."""
    patience_records: int = Field(default=5000, ge=1)
    """A candidate that is not proven after this many records (from its first label on, where labels come; four times
    as many while it leads, or waits for that label) gives way to a fresher one."""
    window_records: int = Field(default=2000, ge=50)
    """Records that the label-free gates look back on."""
    anchor: Path | None = None
    """Labelled anchor set that a candidate must not forget: .npz with `inputs` and `labels`, or a folder of images,
    one folder a class; `model.source_data` where not given and labelled."""
    min_interval_s: float = Field(default=10.0, ge=0)
    """Least time between two swaps."""
    swaps_per_day: int = Field(default=24, ge=1)
    """Most swaps in any 24 hours, roll-backs not counted."""
    freeze: list[str] = []
    """UTC windows without swaps, for instance ["Fri 16:00-Mon 06:00", "22:00-23:30"]; roll-backs still happen."""


class WatchSettings(Group):
    """Monitoring of the served version."""

    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    """Level of the reverse test that takes a version back; laxer than promotion."""
    bake_records: int = Field(default=1000, ge=1)
    """Held-out records that a new version must last before it counts as settled."""
    window_records: int = Field(default=200, ge=20)
    """Held-out records of one look at the vetoes."""
    trips: int = Field(default=2, ge=1)
    """Windows in a row in which a veto must fail."""
    health_every_s: float = Field(default=10.0, gt=0)
    """Time between two checks that the server answers as it should."""
    detector: str = "block_means"
    """Drift detector: a name or module:Class."""
    options: Options = {}
    """Constructor arguments by detector."""
    follow_domain: bool = True
    """Whether the source takes over where records are unlike those that a version was proven on."""
    guarded_ttl_s: float = Field(default=86_400.0, gt=0)
    """A guarded version is taken back after this, unless it has been proven meanwhile."""


class HttpSettings(Group):
    """The agent's own HTTP interface, and its webhooks."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int | None = Field(default=None, ge=0, le=65_535)
    """Port to listen on; none where not given."""
    token: SecretStr | None = None
    """Bearer token that commands (approve, roll back, freeze, reset) must carry."""
    hosts: list[str] = []
    """Further names under which the interface may be asked (header Host); on a loopback address its own are always
    allowed, elsewhere any is unless some are given."""
    health_host: str = "127.0.0.1"
    """Address of the listener for probes; it tells nothing else and takes no command, and so needs no token."""
    health_port: int | None = Field(default=None, ge=0, le=65_535)
    """Port of a listener of its own for /healthz and /readyz; they answer under `port`, too."""
    confirm_url: WebhookUrl | None = None
    """Webhook that is asked before a swap in mode approve: 200 says yes, 403 no, anything else not yet."""
    event_url: WebhookUrl | None = None
    """Webhook that gets every decision as JSON; never waited for."""
    rollback_url: WebhookUrl | None = None
    """Webhook that is asked while a new version bakes: 200 says take it back."""
    timeout_s: float = Field(default=5.0, gt=0)
    """Longest wait for one webhook."""
