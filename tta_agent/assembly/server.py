"""Settings to the embedded model server, over the same registry as the agent."""

from __future__ import annotations

import functools
import importlib.util
import logging
from pathlib import Path

import tta_agent
from tta_agent.core import process
from tta_agent.core.errors import ConfigError, GraphError
from tta_agent.models.ort_sessions import HotSwapSession, open_session
from tta_agent.models.outputs import ModelOutput
from tta_agent.registry import trust
from tta_agent.registry.factory import open_registry
from tta_agent.registry.patches import Patches
from tta_agent.registry.registry import ModelRegistry
from tta_agent.serving.server.app import make_app, serve
from tta_agent.serving.server.batching import Batching
from tta_agent.serving.server.memory import MemoryForecast
from tta_agent.serving.server.warming import warm
from tta_agent.settings.schema import Settings
from tta_agent.settings.secret import revealed
from tta_agent.stream import topic_names
from tta_agent.stream.factory import open_producer, open_writer
from tta_agent.stream.outbox import CAPACITY_BYTES
from tta_agent.tap import Tap
from tta_agent.telemetry.server import ServerTelemetry
from tta_agent.web.access import OwnHosts, is_loopback
from tta_agent.web.server import address

log = logging.getLogger(__name__)
NVIDIA = Path("/dev/nvidiactl")  # of the driver


def run(settings: Settings) -> None:
    """Answer with the version that the registry calls `serving`, until told to stop.

    Raises:
        ConfigError: the registry is empty and the settings name no model to fill it with.
        ConfigError: others could load versions without a token.
        StreamError: the tap's stream cannot be reached.
    """
    s = settings
    _check_token(s)
    codec = open_writer(s) if s.serve.tap else None
    registry = _registry(s)
    number, fault = trust.serving(registry)
    if fault:
        log.error("%s; serving version %d, the last proven one", fault, number)
    device = _device(s.serve.device)
    opener = functools.partial(
        open_session, threads=s.serve.threads, device=device, output=ModelOutput(s.model.output)
    )
    version = registry.get(number)
    print(_forecast(s, version.size, device), flush=True)
    pair = HotSwapSession(number, opener(version.path))
    _warm(pair)
    (patches := Patches(registry, packed=device == "cpu")).skeleton()  # now, not at the first swap
    telemetry = ServerTelemetry.from_environment(tta_agent.__version__)
    telemetry.model(number, version.sha256)
    topic = topic_names.written(s) if codec else ""
    producer = open_producer(s, [topic]) if codec else None
    tap = Tap(producer, codec, topic, s.model.served_as) if producer and codec else None
    app = make_app(
        s.model.served_as,
        pair,
        registry.get,
        open=opener,
        find_patch=patches.find,
        tap=tap,
        threads=s.serve.workers,
        max_batch=s.serve.max_batch,
        memory_bytes=s.serve.body_bytes,
        telemetry=telemetry,
        drain_s=s.serve.drain_s,
        batching=Batching(s.serve.batch_size, s.serve.batch_delay_ms / 1000),
        token=revealed(s.serve.token),
        hosts=OwnHosts.of(s.serve.host, s.serve.hosts, "TTA_SERVE__HOSTS"),
    )
    where = f"{address(s.serve.host, s.serve.port)}/v2/models/{s.model.served_as}"
    print(f"version {number} on {device} at {where}, tap {'to ' + topic if tap else 'off'}", flush=True)
    try:
        serve(app, s.serve.host, s.serve.port, s.serve.connections)
    finally:
        if producer:
            producer.close()
        telemetry.shutdown()


def _forecast(settings: Settings, graph_bytes: int, device: str) -> MemoryForecast:
    traffic_bytes = settings.serve.body_bytes + (CAPACITY_BYTES if settings.serve.tap else 0)
    return MemoryForecast(process.resident_bytes() or 0, graph_bytes, traffic_bytes, device)


def _warm(pair: HotSwapSession) -> None:
    """Run the first version once before anybody asks; what it answers to zeros is nobody's concern."""
    try:
        warm(pair.current()[1])
    except GraphError as error:
        log.warning("version %d does not answer to zeros: %s", pair.current()[0], error)


def _device(named: str) -> str:
    """The device that is named; of `auto` that of the machine."""
    if named != "auto":
        return named
    return "cuda" if NVIDIA.exists() else "cpu"


def _check_token(settings: Settings) -> None:
    if settings.serve.token is None and not is_loopback(settings.serve.host):
        raise ConfigError(
            f"TTA_SERVE__HOST={settings.serve.host} lets others load versions into the server; set TTA_SERVE__TOKEN"
            " (and the agent's TTA_SWAP__TOKEN), or listen on 127.0.0.1"
        )


def _registry(settings: Settings) -> ModelRegistry:
    registry = open_registry(settings)
    if 0 in registry.numbers():
        return registry  # no need for torch in the server
    if importlib.util.find_spec("torch") is None:
        where = settings.store.versions or settings.store.path / "versions"
        raise ConfigError(
            f"the registry {where} is empty, and only torch, which is not installed, makes its first version.\n"
            "Start the agent on it first, or name the agent's: TTA_STORE__PATH, TTA_STORE__VERSIONS."
        )
    from tta_agent.assembly import build

    return build.open_registry(settings, build.load_source(settings, learns=False))
