"""Settings to the agent's own HTTP listeners."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tta_agent.registry.registry import ModelRegistry
from tta_agent.settings.schema import Settings
from tta_agent.settings.secret import revealed

if TYPE_CHECKING:
    from tta_agent.web.server import ServerThread


class Interface:
    """The listeners of one agent, the interface itself first."""

    def __init__(self, *servers: ServerThread) -> None:
        self.servers = servers

    @property
    def url(self) -> str:
        """Base address of the first listener."""
        return self.servers[0].url

    def close(self) -> None:
        """Stop after the requests in progress. Idempotent."""
        for server in self.servers:
            server.close()


def open_interface(
    settings: Settings,
    registry: ModelRegistry,
    status: Callable[[], Mapping[str, Any]],
    metrics: Callable[[], bytes | None] = lambda: None,
) -> Interface | None:
    """The agent's own HTTP interface and the listener for probes, where a port is given.

    Args:
        status: the numbers of now.
        metrics: in the text format of Prometheus.

    Raises:
        ConfigError: an address cannot be had, or others could command the agent without a token.
    """
    h = settings.http
    if h.port is None and h.health_port is None:
        return None
    from tta_agent.control.http import api, health, server
    from tta_agent.labels.store import read_counts
    from tta_agent.web.access import OwnHosts

    servers = []
    if h.port is not None:
        counts = functools.partial(read_counts, settings.store.path / "labels.db")
        hosts = OwnHosts.of(h.host, h.hosts, "TTA_HTTP__HOSTS")
        app = api.make_app(
            settings.store.path,
            registry,
            token=revealed(h.token),
            hosts=hosts,
            status=status,
            labels=counts,
            metrics=metrics,
        )
        servers.append(server.serve_in_thread(app, h.host, h.port))
    if h.health_port is not None:
        servers.append(server.serve_in_thread(health.make_health_app(status), h.health_host, h.health_port))
    return Interface(*servers)
