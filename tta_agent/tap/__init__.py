"""The producer's side, inside a model server: a log of its inferences that never delays a request."""

from tta_agent.tap.exchange import HttpExchange, json_fields
from tta_agent.tap.inference_log import Tap
from tta_agent.tap.middleware import TapMiddleware
from tta_agent.tap.opening import connect

__all__ = ["HttpExchange", "Tap", "TapMiddleware", "connect", "json_fields"]
