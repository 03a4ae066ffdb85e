"""Plugins that cannot be used with a model: those that need images, or exclusive classes, say so by an attribute.

An adapter, selector or schedule with `needs_images = True` works on samples [channels, height, width]; one with
`exclusive_classes = True` on answers of which one class is right. Either is an attribute of the class, or a property
where options decide.
"""

from __future__ import annotations

from tta_agent.core import plugins
from tta_agent.core.task import Task


def misfit(plugin: object, shape: tuple[int, ...], task: Task, *, channels_last: bool = False) -> str | None:
    """What a plugin, or its class, needs and the model has not; None where it fits.

    Args:
        shape: of one sample.
        task: of the model.
        channels_last: samples are [height, width, channels].
    """
    if getattr(plugin, "needs_images", False) is True and (len(shape) != 3 or channels_last):
        last = " with the channels last" if channels_last else ""
        return f"needs images [channels, height, width], and the model takes samples of shape {list(shape)}{last}"
    if getattr(plugin, "exclusive_classes", False) is True and task == "multilabel":
        return "needs exclusive classes, and the model answers label sets (TTA_MODEL__TASK)"
    return None


def misfit_of_adapter(
    name: str, adapter: object, shape: tuple[int, ...], task: Task, *, channels_last: bool = False
) -> str | None:
    """Sentence about what an adapter, or a selector that it brings, needs and the model has not; None if it fits."""
    if reason := misfit(adapter, shape, task, channels_last=channels_last):
        return f"adapter {name!r} {reason}"
    for selector in getattr(adapter, "selectors", {}):
        if reason := misfit(plugins.load("selectors", selector), shape, task, channels_last=channels_last):
            return f"adapter {name!r} selects by {selector!r}, which {reason}"
    return None
