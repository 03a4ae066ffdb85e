"""The demo's traffic alone, against a server and an agent that run already."""

from __future__ import annotations

import time

from tta_agent.core.errors import ConfigError
from tta_agent.core.redact import without_user
from tta_agent.demo.processes import answers
from tta_agent.demo.traffic import Traffic, TrafficPlan, make_workload, window
from tta_agent.models.ort_sessions import open_session
from tta_agent.registry.factory import open_registry
from tta_agent.samples import dataset
from tta_agent.settings.schema import Settings
from tta_agent.stream.factory import open_producer, open_writer

EVERY_S = 5.0
SERVER_WITHIN_S = 60.0  # it may have been started a moment ago


def drive(
    settings: Settings, images: dataset.LabelledImages, plan: TrafficPlan, clean_s: float, shifted_s: float
) -> None:
    """Send traffic, shift it after `clean_s`, and print the served accuracy every few seconds.

    Raises:
        ConfigError: no server answers at TTA_SWAP__URL.
    """
    _wait_for(settings.swap.url)
    source = open_session(open_registry(settings).get(0).path)
    workload = make_workload(images, plan, source)
    producer = open_producer(settings, [settings.stream.labels_topic])
    traffic = Traffic(
        plan,
        workload,
        settings.swap.url,
        settings.model.served_as,
        producer,
        open_writer(settings),
        settings.stream.labels_topic,
    )
    traffic.start()
    try:
        for name, seconds in (("clean", clean_s), ("shifted", shifted_s)):
            if name == "shifted":
                traffic.shift()
            _watch(traffic, name, seconds)
    finally:
        traffic.stop()
        producer.close()


def _wait_for(url: str) -> None:
    until_s = time.monotonic() + SERVER_WITHIN_S
    while not answers(url):
        if time.monotonic() > until_s:
            where = f"TTA_SWAP__URL={without_user(url)}"
            raise ConfigError(f"no model server answers at {where}; start one: tta-agent serve")
        time.sleep(0.5)


def _watch(traffic: Traffic, name: str, seconds: float) -> None:
    until_s = time.time() + seconds
    while time.time() < until_s:
        time.sleep(min(EVERY_S, max(until_s - time.time(), 0.01)))
        now_s = time.time() - traffic.started_s
        seen = window(traffic.answers, now_s - EVERY_S, now_s)
        if seen["n"]:
            failed = sum(traffic.errors.values())
            print(
                f"{now_s:6.0f} s  {name:8} served {seen['served']:.1%}  frozen source {seen['source']:.1%}  "
                f"version {traffic.answers[-1].version}  failed {failed}",
                flush=True,
            )
