"""Values of variables: lists by comma or as JSON, empty ones, names that become a path, a topic or part of a URL."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias, get_args, get_origin

from pydantic import AfterValidator, WithJsonSchema

LIST = 'expected a,b,c or ["a", "b", "c"]'
NONE = "empty for none"  # metadata of a text whose empty value is a value of its own
OBJECT = 'expected a JSON object of options by name, for instance {"tent": {"lr": 0.001}}'
_SERVICE_LINK = re.compile(r".+_SERVICE_(HOST|PORT(_\w+)?)|.+_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?")
_TOPIC, _SEGMENT = r"[A-Za-z0-9._-]{1,249}", r"[^\s/\\?#%]{1,255}"
_LINKED_PORT = re.compile(r"(tcp|udp|sctp)://", re.IGNORECASE)


def read(annotation: Any, value: Any) -> Any:
    """A setting as its type takes it, from the text of a variable or from what JSON made of that text.

    Raises:
        ValueError: a text that is no list or no object; says which form is expected.
    """
    kinds = _kinds(annotation)
    if value == "" and may_be_empty(annotation):
        return [] if list in kinds else "" if _is_empty_text(annotation) else None
    if kinds & {list, tuple}:
        return _listed(value)
    if dict in kinds and not isinstance(value, Mapping):
        raise ValueError(OBJECT)
    return value


def may_be_empty(annotation: Any) -> bool:
    """Whether an empty variable says "none"; elsewhere it counts as not given."""
    return list in _kinds(annotation) or type(None) in get_args(annotation)


def is_service_link(name: str, value: str) -> bool:
    """Whether Kubernetes set the variable for a Service whose name begins with `tta`, as `TTA_AGENT_PORT=tcp://...`."""
    if "__" in name:
        return False
    return bool(_SERVICE_LINK.fullmatch(name) or (name.endswith("_PORT") and _LINKED_PORT.match(value)))


def _listed(value: Any) -> Any:
    if value is None or isinstance(value, list | tuple):
        return value
    if isinstance(value, Mapping) or (isinstance(value, str) and value.lstrip().startswith(("[", "{"))):
        raise ValueError(LIST)
    if not isinstance(value, str):
        return [value]  # JSON made a number of it
    return [part.strip() for part in value.split(",") if part.strip()]


def _kinds(annotation: Any) -> set[Any]:
    """Type of the setting without None; of a union each."""
    return {get_origin(one) or one for one in (annotation, *get_args(annotation))}


def _is_empty_text(annotation: Any) -> bool:
    return any(NONE in getattr(one, "__metadata__", ()) for one in get_args(annotation))


def _is_topic(name: str) -> str:
    if not re.fullmatch(_TOPIC, name) or name in (".", ".."):
        raise ValueError("expected a topic: 1 to 249 letters, digits, '.', '_' and '-'")
    return name


def topic_names(text: str) -> list[str]:
    """Names in a setting of topics; none where it is a regular expression."""
    return [] if is_pattern(text) else [part.strip() for part in text.split(",") if part.strip()]


def is_pattern(text: str) -> bool:
    """Whether a setting of topics is a regular expression: those begin with ^."""
    return text.startswith("^")


def _are_topics(text: str) -> str:
    if is_pattern(text):
        try:
            re.compile(text)
        except re.error as error:
            raise ValueError(f"no regular expression: {error}") from None
        return text
    names = [_is_topic(name) for name in topic_names(text)]
    if not names or len(set(names)) < len(names):
        raise ValueError("expected a topic, several different ones by comma, or ^ and a regular expression")
    return ",".join(names)


def _is_segment(name: str) -> str:
    if not re.fullmatch(_SEGMENT, name) or name in (".", ".."):
        raise ValueError("expected a name as it stands in a URL: no space and none of / \\ ? # %")
    return name


def _schema(pattern: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern, "not": {"enum": [".", ".."]}})


Topic: TypeAlias = Annotated[str, AfterValidator(_is_topic), _schema(f"^{_TOPIC}$")]
Topics: TypeAlias = Annotated[
    str, AfterValidator(_are_topics), _schema(rf"^(\^.*|[, ]*{_TOPIC}( *,[, ]*{_TOPIC})*[, ]*)$")
]
TopicOrNone: TypeAlias = Annotated[
    str, AfterValidator(lambda name: name and _is_topic(name)), NONE, _schema(f"^({_TOPIC})?$")
]
UrlSegment: TypeAlias = Annotated[str, AfterValidator(_is_segment), _schema(f"^{_SEGMENT}$")]
