"""Former module of the demo's net, for settings that name `tta_agent.demo.net:fashion_net`."""

from tta_agent.samples.nets import fashion_net

__all__ = ["fashion_net"]
