"""The one exception tree.

TtaError
├── ConfigError          a setting, file or plugin name is wrong: refuse to start (exit status 2)
│   ├── PluginNotFound   no adapter, codec, driver, gate ... of that name
│   └── CannotAdapt      the adapter has nothing to adapt in this model
├── StreamError          the broker or the embedded log cannot be reached or is damaged
│   └── MessageTooLarge  the topic takes no message of that size
├── DecodeError          one record cannot be read: it goes to the dead-letter topic
├── GraphError           the ONNX graph cannot be exported, patched, loaded, or differs from torch
├── RegistryError          a version is missing, damaged or may not be changed
│   └── StoreError       its store does not answer, or refuses
├── CheckpointError      the checkpoint does not belong to this model, or is damaged
├── LeaseLost            another agent has taken over the store: nothing may be written any more
└── SwapError            the server refused or failed a swap: the old version is still live
    └── WrongAnswer      a version answers otherwise than its graph: evidence about it, not about the way to it

Messages name the value, what was expected and the nearest valid choice, in one to three lines.
"""

import difflib
from collections.abc import Iterable


class TtaError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigError(TtaError):
    """A setting, file or plugin name with which the agent cannot start."""


class PluginNotFound(ConfigError):
    """A plugin that is not installed, or cannot be imported."""


class CannotAdapt(ConfigError):
    """A model in which the adapter has nothing to adapt."""


class StreamError(TtaError):
    """A stream that cannot be reached or is damaged."""


class MessageTooLarge(StreamError):
    """The topic takes no message of that size; it is not sent."""


class DecodeError(TtaError):
    """A record that cannot be read. `reason` is a short stable word for counters."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class GraphError(TtaError):
    """An ONNX graph that cannot be made, patched or loaded."""


class RegistryError(TtaError):
    """A version is missing, damaged, or may not be changed."""


class StoreError(RegistryError):
    """The registry's store does not answer, or refuses: the same may work later."""


class CheckpointError(TtaError):
    """A checkpoint that is damaged or belongs to another model."""


class LeaseLost(TtaError):
    """The store belongs to another agent now: nothing may be written any more."""


class SwapError(TtaError):
    """A failed swap; the version that served before is still live."""


class WrongAnswer(SwapError):
    """A version that answers the golden batch otherwise than its graph does."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """`did you mean ...?` for a misspelt name, else the list of valid ones."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]}?"
    return f"valid: {', '.join(names) or 'none installed'}"
