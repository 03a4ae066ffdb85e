"""Groups of settings about the data, the model and the copy: name, default, meaning.

Every group is frozen and forbids unknown names; the text under a field becomes its description in the JSON schema.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, field_validator

from tta_agent.settings import values
from tta_agent.settings.secret import Address

Options = dict[str, dict[str, Any]]


class Group(BaseModel):
    """Base of all groups: frozen, unknown names forbidden."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _read(cls, value: Any, info: ValidationInfo) -> Any:
        return values.read(cls.model_fields[str(info.field_name)].annotation, value)


class ModelSettings(Group):
    """The deployed model."""

    name: str | None = None
    """timm name, for instance resnet18; needs `weights`. Exactly one of `name`, `factory` and `onnx`."""
    factory: str | None = None
    """Import path of a callable that makes the module, for instance my_package.nets:make."""
    onnx: Path | None = None
    """The served ONNX file: the model is built from it alone."""
    sites: str = Field(default="auto", min_length=1)
    """Layers of the ONNX file into which a BatchNorm was folded, and which become normalisation layers again: auto
    (as the file tells), none, or names of layers with wildcards, by comma. `source_data` gives their statistics."""
    weights: Path | None = None
    """Local file with the deployed weights: .safetensors, or a torch checkpoint (read with weights_only)."""
    input_shape: tuple[int, ...] | None = None
    """Shape of one sample, for instance [3,224,224]; timm models and modules with `input_shape` know theirs."""
    classes: int | None = Field(default=None, ge=2)
    """Number of classes; asked from the model where not given."""
    output: str | None = None
    """Name of the output that is the answer, where the model has several; the only one of the form [N, C] where not
    given."""
    task: Literal["auto", "multiclass", "binary", "multilabel"] = "auto"
    """Kind of decision: one of several exclusive classes, one of two, or a set of labels. auto goes by the answers:
    softmax or logits, one value, sigmoids that do not sum to 1. Logits of several labels have to be named."""
    mean: tuple[float, ...] | None = None
    """Mean that preprocessing takes off pixels in 0 .. 1, per channel or one for all; timm models know it, else 0."""
    std: tuple[float, ...] | None = None
    """Standard deviation by which preprocessing then divides, likewise; else 1."""
    source_data: Path | None = None
    """Source samples for folded BatchNorms and for methods that want some (prototypes, Fisher information): .npz with
    `inputs` and perhaps `labels`, or a folder of images, one folder a class."""
    check_served: bool = True
    """Whether the first served answers in the stream must be the model's own before anything is learnt."""
    served_as: values.UrlSegment = "model"
    """Name of the model in the server."""
    served_version: str | None = Field(default=None, min_length=1, max_length=512)
    """Version that the log names for the deployed model, version 0, where the server does not say 0: for instance
    v1.2. Other names are those of the registry (its aliases, or 8 digits and more of a hash), else foreign."""
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """Device of the adapted copy: auto, cpu, cuda or cuda:N."""
    threads: int = Field(default=1, ge=1)
    """CPU threads of the agent's torch and ONNX Runtime, each. More than half of the cores starve the server."""
    nice: int = Field(default=10, ge=0, le=19)
    """Niceness of the agent's process: where cores are scarce, the server beside it goes first."""


class StreamSettings(Group):
    """Stream of inferences and labels."""

    source: Literal["auto", "kafka", "embedded", "http"] = "auto"
    """Where records come from: kafka; embedded, a log in one file under `store.path`; http, a receiver in the agent
    (group `receiver`), to which taps and loggers post; auto: kafka where brokers are named, else embedded."""
    bootstrap_servers: str | None = None
    """Kafka brokers, host:port[,host:port]."""
    topic: values.Topics = "inference"
    """Topic of inferences; several by comma; or ^ and a regular expression of whole names, on Kafka. Where inferences
    are written (`serve`, the tap) it has to be one name."""
    labels_topic: values.Topic = "inference.labels"
    """Topic of late labels, keyed by inference id."""
    dead_letter_topic: values.TopicOrNone | None = None
    """Topic for records that cannot be read; default <topic>.tta.dlq for each topic, <group>.tta.dlq where `topic`
    is a regular expression; empty for none."""
    output: values.Topic | None = None
    """Topic of results: scores and the adapted answer of each record that the copy has answered; none where not
    given."""
    codec: str = "auto"
    """Wire format: a name (cloudevents, oip_json, ...) or module:Class; auto recognises each record's, codecs that go
    by headers first, then by name, and writes cloudevents."""
    options: Options = {}
    """Constructor arguments by codec, for instance {"claim_check": {"allow": ["s3://bucket/inferences/"]}}; those of
    `image` say how encoded images are brought to the model's size, whatever carries them."""
    inputs: Literal["auto", "as_is", "div255", "div255_mean_std", "mean_std"] = "auto"
    """From a logged input x to what the model takes: as_is, div255 (x / 255), div255_mean_std ((x / 255 - mean) /
    std, by TTA_MODEL__MEAN and TTA_MODEL__STD), mean_std ((x - mean) / std); auto takes the one with which the source
    answers as was served, and refuses to learn where none does."""
    responses_topic: values.Topic | None = None
    """Topic of responses, where they are not in `topic`: seldon.<namespace>.model.<name>.outputs, mlserver-output."""
    join_s: float = Field(default=60.0, gt=0)
    """Longest wait of a request for its response, where a server logs them apart."""
    group: str = "tta-agent"
    """Consumer group."""
    start: Literal["latest", "earliest"] = "latest"
    """Begin of a group without a committed position."""
    partitions: int = Field(default=4, ge=1)
    """Partitions of topics that have to be created."""
    max_age_s: float = Field(default=600.0, gt=0)
    """Records older than this are skipped and counted, not adapted to."""
    queue_bytes: int = Field(default=64 << 20, ge=1 << 16)
    """High-water mark of each queue inside the agent; above it the partitions are paused."""
    connect_timeout_s: float = Field(default=10.0, gt=0)
    """Longest search for a broker."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """Security protocol of Kafka."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = None
    """SASL mechanism; OAUTHBEARER asks the class in TTA_STREAM__KAFKA__SASL_OAUTH_TOKEN_PROVIDER for tokens."""
    sasl_username: str | None = None
    """SASL user."""
    sasl_password: SecretStr | None = None
    """SASL password; better from a file."""
    sasl_password_file: Path | None = None
    """File that holds the SASL password."""
    ssl_cafile: Path | None = None
    """PEM file of the authority that signed the brokers' certificates."""
    client: Literal["auto", "kafka-python", "confluent-kafka"] = "auto"
    """Library that reads Kafka: kafka-python; confluent-kafka, the extra [fast], at less than half the cost; auto:
    confluent-kafka where it is installed and has a counterpart of each option in `kafka`, else kafka-python."""
    kafka: dict[str, Any] = {}
    """Further options of kafka-python's clients, each as TTA_STREAM__KAFKA__<OPTION>, for instance
    TTA_STREAM__KAFKA__GROUP_INSTANCE_ID for static membership; each client takes those that it knows."""

    @property
    def kind(self) -> Literal["kafka", "embedded", "http"]:
        """Where records come from."""
        if self.source != "auto":
            return self.source
        return "kafka" if self.bootstrap_servers else "embedded"


class SelectSettings(Group):
    """Selection of the samples that teach."""

    selectors: list[str] | None = None
    """Names or module:Class, applied one after the other; [] keeps all; the method's own where not given."""
    screen: list[str] = ["plausible"]
    """Selectors of inputs, asked before the learning forward pass of every method; [] for none. What they leave out
    is scored, but neither teaches nor is evidence."""
    options: Options = {}
    """Constructor arguments by selector, for instance {"entropy": {"margin": 0.4}}."""
    sample: int | None = Field(default=None, ge=1)
    """Records of each window that are used at most, for learning and evaluation alike; the others are drawn out by
    hash and counted as `sampled_out`. All where not given. A record waits for the end of its window."""
    sample_window_s: float = Field(default=1.0, gt=0)
    """Length of these windows, by the time of the records."""
    tenant_share: float = Field(default=1.0, gt=0, le=1)
    """Share of the sample that the records of one tenant may make; beyond it they are counted as `tenant_cap`."""
    holdout: float = Field(default=0.2, gt=0, lt=1)
    """Share of entities (by hash of their key) that only the gate sees and nothing is learnt from."""


class AdaptSettings(Group):
    """Adaptation of the copy."""

    method: str = "tent"
    """Adapter: a name (tent, norm, deyo, ...; adapters/README.md has the table) or module:Class."""
    options: Options = {}
    """Constructor arguments by adapter, for instance {"tent": {"lr": 0.001, "momentum": 0.1}}."""
    batch_size: int = Field(default=64, ge=1)
    """Samples of one round."""
    max_wait_s: float = Field(default=2.0, gt=0)
    """Longest wait for a full batch; then a round starts with the samples that are there, which may be one of a slow
    stream: a longer wait makes larger rounds, and `window` helps the small ones."""
    rest_share: float = Field(default=1.0, gt=0, le=1)
    """Share of the batches that are learnt from at rest: once the copy no longer improves, until records of another
    kind come. The others are neither scored nor learnt from, and candidates are evaluated on that share of the
    records that teach. 1: never at rest."""
    window: int = Field(default=0, ge=0)
    """Samples of the sliding window: a smaller round is answered together with the records before it, and learnt from
    once there are as many. 0: 16 where the method takes statistics of the batch, else none; 1: none."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the copy's activations; bfloat16 halves memory and time on recent accelerators."""
    memory: float = Field(default=1.0, gt=0, le=1)
    """Share of the accelerator's memory that the agent may use."""


class ScheduleSettings(Group):
    """Schedule of candidates, and of resets and pulls towards the source."""

    schedules: list[str] = []
    """Names or module:Class, asked after every round: resets and pulls towards the source."""
    options: Options = {}
    """Constructor arguments by schedule, for instance {"periodic_reset": {"samples": 64000}}."""

    candidate_every: int = Field(default=8, ge=1)
    """Rounds between two candidates (one at a time is tested); after a shift the next one comes as soon as the copy
    has settled."""
    cooldown_s: float = Field(default=60.0, ge=0)
    """Time without a candidate after a roll-back; doubled by each further one, up to a day, until a version has
    stayed."""


class SwapSettings(Group):
    """Driver of the model server."""

    driver: str = "oip"
    """Server driver: a name or module:Class. oip: a server of the Open Inference Protocol (`tta-agent serve`,
    MLServer, KServe's); triton; ovms: OpenVINO Model Server; kserve, seldon: the custom resource is patched; files: a
    folder and a link; none: only write versions to the registry."""
    options: Options = {}
    """Constructor arguments by driver, for instance {"my_server": {"folder": "/models"}}."""
    url: Address = "http://127.0.0.1:8080"
    """Base address of the model server."""
    token: SecretStr | None = None
    """Bearer token of the server's repository API: the server's TTA_SERVE__TOKEN."""
    timeout_s: float = Field(default=30.0, gt=0)
    """Longest wait for one call."""


class StoreSettings(Group):
    """State that survives a crash."""

    path: Path = Path("tta-state")
    """Folder of registry, checkpoint, labels and embedded log."""
    proofs: Path | None = None
    """Folder of rehearsals and calibration; `path` where not given."""
    versions: Address | None = None
    """URL of the registry, any that fsspec knows (s3://bucket/models/a, ...); <path>/versions where not given."""
    keep: int = Field(default=20, ge=1)
    """Proven versions kept with their graph; source, serving, previous and pinned ones always are."""
    checkpoint_every: int = Field(default=16, ge=1)
    """Rounds between two checkpoints; offsets are committed with them."""
