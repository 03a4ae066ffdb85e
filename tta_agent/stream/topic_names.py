"""Topics that the settings name: to read, several or by a regular expression; to write; for dead letters."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tta_agent.core.errors import ConfigError
from tta_agent.settings.schema import Settings
from tta_agent.settings.values import is_pattern, topic_names

DEAD = "tta.dlq"  # end of the names of our dead-letter topics


def named(texts: Iterable[str]) -> list[str]:
    """Names in settings of topics, each once."""
    return list(dict.fromkeys(name for text in texts for name in topic_names(text)))


def pattern(settings: Settings, texts: Sequence[str]) -> str | None:
    """One regular expression of all topics that are read, where one of them is given so; else None.

    What the agent writes is never read: dead letters, results and label requests.
    """
    found = [text for text in texts if is_pattern(text)]
    if not found:
        return None
    own = [settings.stream.dead_letter_topic, settings.stream.output, settings.labels.requests_topic]
    never = "|".join([rf".*\.{re.escape(DEAD)}", *(re.escape(topic) for topic in own if topic)])
    wanted = "|".join([*found, *map(re.escape, named(texts))])
    return f"^(?!(?:{never})$)(?:{wanted})$"


def written(settings: Settings) -> str:
    """The topic that inferences are written to.

    Raises:
        ConfigError: the settings name several.
    """
    topic = settings.stream.topic
    if is_pattern(topic) or len(topic_names(topic)) > 1:
        raise ConfigError(
            f"TTA_STREAM__TOPIC={topic} names several topics, and here inferences are written; expected one name"
        )
    return topic


def dead_letters(settings: Settings) -> dict[str, str]:
    """Dead-letter topics by the topic of the record, under "" that of all others; empty where there are none."""
    own, s = settings.stream.dead_letter_topic, settings.stream
    if own is not None:
        return {"": own} if own else {}
    if is_pattern(s.topic):
        return {"": f"{s.group}.{DEAD}"}
    names = topic_names(s.topic)
    return {"": f"{names[0]}.{DEAD}"} | {name: f"{name}.{DEAD}" for name in names[1:]}
