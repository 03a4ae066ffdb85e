"""Names of all spans, metrics and attributes.

Messaging names follow the OpenTelemetry semantic conventions 1.44 (that area is still in development); names
of our own begin with `tta.`. Units are UCUM. Nothing here may hold an id, an offset or a value of a tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# Spans. The three messaging ones are followed by the topic: `process inference.requests`.
POLL = "poll"
PROCESS = "process"
COMMIT = "commit"
SCORE = "tta.score"
SELECT = "tta.select"
ADAPT = "tta.adapt"
GATE = "tta.gate"
EXPORT = "tta.export"
SWAP = "tta.swap"
VERIFY = "tta.verify"
INFER = "POST /v2/models/{model}/infer"
LOAD = "POST /v2/repository/models/{model}/load"
SPANS = (POLL, PROCESS, COMMIT, SCORE, SELECT, ADAPT, GATE, EXPORT, SWAP, VERIFY)
SERVER_SPANS = {
    INFER: "One inference request, from its head to its answer",
    LOAD: "One order to load a version",
}

FINDING = "tta.gate.check"  # the event of one gate's answer on the gate span

# Attributes of the conventions.
SYSTEM = "messaging.system"
OPERATION_NAME = "messaging.operation.name"
OPERATION_TYPE = "messaging.operation.type"
DESTINATION = "messaging.destination.name"
GROUP = "messaging.consumer.group.name"
MESSAGE_COUNT = "messaging.batch.message_count"
ERROR_TYPE = "error.type"
HTTP_METHOD = "http.request.method"
HTTP_ROUTE = "http.route"
HTTP_STATUS = "http.response.status_code"

# Attributes of our own.
LINKS_DROPPED = "tta.links.dropped"
MODEL_VERSION = "tta.model.version"
MODEL_SHA256 = "tta.model.sha256"
POLICY = "tta.policy"
MODEL_SOURCE = "tta.model.source"
PROOF = "tta.proof"
OUTCOME = "tta.outcome"
REASON = "tta.reason"
SELECT_KEPT = "tta.select.kept"
SELECT_TOTAL = "tta.select.total"
ADAPT_USED = "tta.adapt.used"
LOSS = "tta.adapt.loss"
GATE_NAME = "tta.gate.name"
GATE_VALUE = "tta.gate.value"
GATE_THRESHOLD = "tta.gate.threshold"
GATE_VERDICT = "tta.gate.verdict"
EXPORT_SHA256 = "tta.export.sha256"
EXPORT_BYTES = "tta.export.bytes"
SWAP_DRIVER = "tta.swap.driver"
SWAP_FROM = "tta.swap.from"
SWAP_TO = "tta.swap.to"
PLACE = "tta.place"
RESULT = "tta.result"
FEATURE = "tta.feature"
BATCH_SAMPLES = "tta.server.batch.samples"
QUEUED_S = "tta.server.queued"
INFERRED_S = "tta.server.inferred"

ATTRIBUTES = {
    SYSTEM: "where records come from: kafka, embedded or http",
    OPERATION_NAME: "poll, process or commit",
    OPERATION_TYPE: "the same in the words of the conventions: receive, process, settle",
    DESTINATION: "topic",
    GROUP: "consumer group",
    MESSAGE_COUNT: "records in the poll or in the round",
    ERROR_TYPE: "class of the exception that ended the span",
    HTTP_METHOD: "POST",
    HTTP_ROUTE: "route of the request, with {model} for the name",
    HTTP_STATUS: "status of the answer",
    LINKS_DROPPED: "requests of the round that the span has no link to: unsampled, or more than 128",
    MODEL_VERSION: "version that serves; of `tta.accuracy.realised`: that answered",
    MODEL_SHA256: "sha256 of the graph that serves",
    POLICY: "method that adapts",
    MODEL_SOURCE: "the deployed model: timm name, factory or ONNX file",
    PROOF: "proof of the version that serves: source, certified, rehearsed, guarded, none",
    OUTCOME: "fate of a sample: kept, rejected by a selector, held_out (held_out_implausible: no evidence), stale, "
    "duplicate, undecodable; sampled_out, tenant_cap: TTA_SELECT__SAMPLE",
    REASON: "kind of a message that was given up: dead_letter, label_request, result, webhook_event, too_large; "
    "receiver_full: a record for which the receiver had no room",
    SELECT_KEPT: "samples that teach",
    SELECT_TOTAL: "samples of the round",
    ADAPT_USED: "samples that the step learnt from",
    LOSS: "loss of the step",
    GATE_NAME: "gate",
    GATE_VALUE: "statistic of the gate",
    GATE_THRESHOLD: "threshold of the gate",
    GATE_VERDICT: "pass, fail or inconclusive",
    EXPORT_SHA256: "sha256 of the candidate's graph",
    EXPORT_BYTES: "size of the candidate's graph",
    SWAP_DRIVER: "driver of the model server",
    SWAP_FROM: "version that served before",
    SWAP_TO: "version that is to serve",
    BATCH_SAMPLES: "samples in the run that answered the request, those of others that ran with it too",
    QUEUED_S: "seconds that the request waited for a worker, or for others to run with it",
    INFERRED_S: "seconds that the run took",
    FEATURE: "number by which kinds of records are told apart",
    PLACE: "metric or step that met a value that is not finite",
    RESULT: "of a round: adapted, skipped; of a swap: activated, failed, rolled_back, fell_back, reinstated",
}


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `buckets` are a histogram's upper bounds; `series` how many of a gauge are kept."""

    name: str
    kind: Literal["counter", "histogram", "gauge"]
    unit: str
    description: str
    buckets: tuple[float, ...] = ()
    series: int = 1


_UNIT_BUCKETS = tuple(i / 20 for i in range(1, 21))
_SIZE_BUCKETS = tuple(float(2**i) for i in range(9))
_SECONDS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

CONSUMED = Metric(
    "messaging.client.consumed.messages", "counter", "{message}", "Records handed over by the stream"
)
PROCESS_DURATION = Metric(
    "messaging.process.duration", "histogram", "s", "Duration of one round on its worker", _SECONDS_BUCKETS
)
ROUNDS = Metric("tta.rounds", "counter", "{round}", "Adaptation rounds, by result")
SAMPLES = Metric("tta.samples", "counter", "{sample}", "Samples, by what became of them")
DROPPED = Metric(
    "tta.dropped", "counter", "{message}", "Messages that could not be handed on and were given up, by reason"
)
NONFINITE = Metric("tta.nonfinite", "counter", "{value}", "Values that were NaN or infinite, by place")
ENTROPY = Metric(
    "tta.entropy", "histogram", "1", "Entropy of the prediction over ln C (high = unsure)", _UNIT_BUCKETS
)
CONFIDENCE = Metric(
    "tta.confidence", "histogram", "1", "Greatest probability of the prediction", _UNIT_BUCKETS
)
ADAPT_DURATION = Metric(
    "tta.adapt.duration", "histogram", "s", "Duration of one adaptation step", _SECONDS_BUCKETS
)
ADAPT_STEPS = Metric("tta.adapt.steps", "counter", "{step}", "Adaptation steps that learnt something")
ADAPT_LOSS = Metric("tta.adapt.loss", "gauge", "1", "Loss of the last step")
GATE_CHECKS = Metric("tta.gate.checks", "counter", "{check}", "Answers of the gates, by name and verdict")
SWAPS = Metric("tta.swaps", "counter", "{swap}", "Swaps of the served graph, by result")
SWAP_DURATION = Metric("tta.swap.duration", "histogram", "s", "Duration of a swap", _SECONDS_BUCKETS)
MODEL_INFO = Metric(
    "tta.model.info", "gauge", "1", "1 for the version that serves; the rest is in attributes"
)
DRIFT_DISTANCE = Metric(
    "tta.drift.distance",
    "gauge",
    "1",
    "Distance of the latest records from those before them in standard errors, by feature",
    series=16,
)
LAG = Metric("tta.consumer.lag", "gauge", "{message}", "Records between this member and the end of the log")
FRESHNESS = Metric("tta.freshness", "gauge", "s", "Age of the newest record of the last round when it ended")
QUEUE_BYTES = Metric("tta.queue.bytes", "gauge", "By", "Bytes waiting between the threads")
ACCURACY = Metric(
    "tta.accuracy.realised", "gauge", "1", "Accuracy of what was served, on labelled records", series=8
)

TAP_MESSAGES = Metric(
    "tta.tap.messages", "counter", "{message}", "Inferences that a server was to log, by what became of them"
)
TAP_QUEUE_BYTES = Metric("tta.tap.queue.bytes", "gauge", "By", "Bytes that wait in the tap of a server")
TAP_METRICS = (TAP_MESSAGES, TAP_QUEUE_BYTES)

SERVER_DURATION = Metric(
    "http.server.request.duration",
    "histogram",
    "s",
    "Duration of an inference request, by status",
    _SECONDS_BUCKETS,
)
SERVER_ACTIVE = Metric("http.server.active_requests", "gauge", "{request}", "Inference requests in progress")
SERVER_REQUESTS = Metric(
    "tta.server.requests", "counter", "{request}", "Inference requests, by status and version that answered"
)
SERVER_WAITING = Metric(
    "tta.server.waiting",
    "gauge",
    "{request}",
    "Requests, or batches of them, that wait for a worker of the server",
)
SERVER_BATCH = Metric(
    "tta.server.batch.size", "histogram", "{sample}", "Samples in one run of the served model", _SIZE_BUCKETS
)
SERVER_MEMORY = Metric("process.memory.usage", "gauge", "By", "Resident memory of the server's process")
SERVER_METRICS = (
    SERVER_DURATION,
    SERVER_ACTIVE,
    SERVER_REQUESTS,
    SERVER_WAITING,
    SERVER_BATCH,
    SERVER_MEMORY,
)

METRICS = (
    CONSUMED,
    PROCESS_DURATION,
    ROUNDS,
    SAMPLES,
    DROPPED,
    NONFINITE,
    ENTROPY,
    CONFIDENCE,
    ADAPT_DURATION,
    ADAPT_STEPS,
    ADAPT_LOSS,
    GATE_CHECKS,
    SWAPS,
    SWAP_DURATION,
    MODEL_INFO,
    DRIFT_DISTANCE,
    LAG,
    FRESHNESS,
    QUEUE_BYTES,
    ACCURACY,
)
