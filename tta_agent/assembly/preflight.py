"""Checks of the settings that need no model: names of plugins, their options, files and addresses."""

from __future__ import annotations

import contextlib
import inspect
import logging
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tta_agent.core import plugins
from tta_agent.core.errors import ConfigError, nearest
from tta_agent.core.redact import without_user
from tta_agent.core.types import SourceInfo
from tta_agent.evaluation.decision import GateSet
from tta_agent.rollout.limits import RolloutLimits
from tta_agent.serving.drivers import open_driver
from tta_agent.settings.data_groups import Options
from tta_agent.settings.schema import Settings
from tta_agent.stream.factory import AUTO, open_codec


def check_plugins(settings: Settings) -> None:
    """Build every plugin that the settings name, adapters on a small net of ours.

    Raises:
        ConfigError: no plugin of that name, an option that it does not take, or gates that could never promote.
    """
    s = settings
    _adapter(s)
    own: Mapping[str, Any] = getattr(plugins.load("adapters", s.adapt.method), "selectors", {})
    names = list(own) if s.select.selectors is None else s.select.selectors
    of_selectors = _merged(own, s.select.options)
    _made("selectors", names, "TTA_SELECT__SELECTORS", "TTA_SELECT__OPTIONS", of_selectors)
    _made("selectors", s.select.screen, "TTA_SELECT__SCREEN", "TTA_SELECT__OPTIONS", of_selectors)
    _made(
        "schedules",
        s.schedule.schedules,
        "TTA_SCHEDULE__SCHEDULES",
        "TTA_SCHEDULE__OPTIONS",
        s.schedule.options,
    )
    GateSet(_made("gates", s.gate.gates, "TTA_GATE__GATES", "TTA_GATE__OPTIONS", s.gate.options))
    _made("detectors", [s.watch.detector], "TTA_WATCH__DETECTOR", "TTA_WATCH__OPTIONS", s.watch.options)
    RolloutLimits(freeze=s.gate.freeze)
    with _of("TTA_STREAM__CODEC"):
        _known("codecs", [s.stream.codec], "TTA_STREAM__OPTIONS", s.stream.options)
        open_codec(s)
    _driver(s)


def check_files(settings: Settings) -> None:
    """See that files and folders which are read later are there.

    Raises:
        ConfigError: one is missing, or a file stands where a folder is needed.
    """
    m, stream = settings.model, settings.stream
    files = {
        "TTA_MODEL__WEIGHTS": m.weights,
        "TTA_MODEL__ONNX": m.onnx,
        "TTA_STREAM__SSL_CAFILE": stream.ssl_cafile,
    }
    files["TTA_STREAM__SASL_PASSWORD_FILE"] = stream.sasl_password_file
    data = {"TTA_MODEL__SOURCE_DATA": m.source_data, "TTA_GATE__ANCHOR": settings.gate.anchor}
    for name, path in files.items():
        if path is not None and not path.is_file():
            raise ConfigError(f"{name}={path}: no such file")
    _certificates(stream.ssl_cafile)
    for name, path in data.items():
        if path is not None and not path.exists():
            raise ConfigError(f"{name}={path}: expected an existing .npz or a folder of images")
    for name, path in {
        "TTA_STORE__PATH": settings.store.path,
        "TTA_STORE__PROOFS": settings.store.proofs,
    }.items():
        if path is not None and (other := _no_folder(path)) is not None:
            raise ConfigError(f"{name}={path}: {other} is no folder; name another place")


def _certificates(path: Path | None) -> None:
    try:
        ssl.create_default_context(cafile=path)
    except ssl.SSLError:
        raise ConfigError(f"TTA_STREAM__SSL_CAFILE={path}: expected certificates as PEM") from None


def _no_folder(path: Path) -> Path | None:
    """The part of the path that exists and is no folder."""
    for part in (path, *path.parents):
        if part.exists() or part.is_symlink():
            return None if part.is_dir() else part
    return None


def _adapter(settings: Settings) -> None:
    """Options count as wrong where the adapter takes a small net without them, and refuses it with them."""
    method, options = settings.adapt.method, settings.adapt.options
    with _of("TTA_ADAPT__METHOD"):
        plugins.load("adapters", method)
    _known("adapters", [method], "TTA_ADAPT__OPTIONS", options)
    from tta_agent.testing import tiny_net  # torch: slow to import

    net = tiny_net("batch")
    logging.disable(logging.WARNING)  # what an adapter tells of the small net is of no use
    try:
        error = _failure(method, options, net)
        refused = isinstance(error, ConfigError) and _failure(method, {}, net) is None
    finally:
        logging.disable(logging.NOTSET)
    if refused:
        raise ConfigError(f"TTA_ADAPT__OPTIONS: {error}")


def _failure(method: str, options: Options, net: Any) -> Exception | None:
    try:
        _make("adapters", method, options, net)
    except Exception as error:  # somebody else's adapter may ask for more than a small net has
        return error
    return None


def _driver(settings: Settings) -> None:
    swap = settings.swap
    with _of("TTA_SWAP__DRIVER"):
        _known("drivers", [swap.driver], "TTA_SWAP__OPTIONS", swap.options)
        open_driver(settings).close()
    if swap.driver == "oip" and not swap.url.startswith(("http://", "https://")):
        raise ConfigError(
            f"TTA_SWAP__URL={without_user(swap.url)}: expected http://host:port or https://host:port"
        )


def _made(
    kind: plugins.Kind, names: list[str], variable: str, of_options: str, options: Options
) -> list[Any]:
    with _of(variable):
        _known(kind, names, of_options, options)
        return [_make(kind, name, options) for name in names]


def _make(kind: plugins.Kind, name: str, options: Options, *args: Any) -> Any:
    """The plugin, with nothing known of the source where it asks."""
    asks = "origin" in inspect.signature(plugins.load(kind, name)).parameters
    known = {"origin": SourceInfo()} if asks else {}
    return plugins.make(kind, name, {name: {**known, **options.get(name, {})}}, *args)


def _known(kind: plugins.Kind, names: list[str], variable: str, options: Options) -> None:
    """Raise ConfigError where options are given for a plugin that does not exist."""
    there = {*plugins.available(kind), *names, *([AUTO] if kind == "codecs" else [])}
    for name in options:
        if name not in there and ":" not in name:
            raise ConfigError(
                f"{variable}: no {kind.removesuffix('s')} is called {name!r}; {nearest(name, there)}"
            )


def _merged(own: Mapping[str, Any], options: Options) -> Options:
    return {name: {**own.get(name, {}), **options.get(name, {})} for name in {*own, *options}}


@contextlib.contextmanager
def _of(variable: str) -> Iterator[None]:
    """Context whose errors begin with the variable, unless they name one."""
    try:
        yield
    except ConfigError as error:
        if str(error).startswith("TTA_"):
            raise
        raise type(error)(f"{variable}: {error}") from None
