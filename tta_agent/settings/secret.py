"""Values of settings that are not shown."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import AfterValidator, PlainSerializer, SecretStr

from tta_agent.core.redact import host_only, without_user


class SecretUrl(SecretStr):
    """A URL of which only scheme, host and port are shown."""

    def _display(self) -> str:
        return host_only(self.get_secret_value())


def _is_web_address(url: SecretUrl) -> SecretUrl:
    if not url.get_secret_value().startswith(("http://", "https://")) or not str(url).startswith("http"):
        raise ValueError("expected http:// or https:// with a host")
    return url


WebhookUrl: TypeAlias = Annotated[
    SecretUrl, AfterValidator(_is_web_address), PlainSerializer(str, return_type=str, when_used="json")
]
Address: TypeAlias = Annotated[str, PlainSerializer(without_user, return_type=str, when_used="json")]


def revealed(secret: SecretStr | None) -> str | None:
    """The value itself, where there is one."""
    return secret.get_secret_value() if secret else None
