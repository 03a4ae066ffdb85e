"""All settings (`tta-agent schema` lists them). Precedence: flags > environment > policy preset > defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from tta_agent.settings import values
from tta_agent.settings.data_groups import (
    AdaptSettings,
    ModelSettings,
    ScheduleSettings,
    SelectSettings,
    StoreSettings,
    StreamSettings,
    SwapSettings,
)
from tta_agent.settings.http_groups import ReceiverSettings, ServeSettings
from tta_agent.settings.presets import preset
from tta_agent.settings.retired import without_retired
from tta_agent.settings.rollout_groups import GateSettings, HttpSettings, LabelSettings, WatchSettings

PREFIX = "TTA_"


class Settings(BaseSettings):
    """tta-agent, by environment variables `TTA_<GROUP>__<NAME>`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )

    mode: Literal["observe", "shadow", "approve", "auto"] = "shadow"
    """observe: score only. shadow: adapt and test candidates, never swap. approve: swap what is proven and a person
    or a webhook says yes to. auto: swap what is proven."""
    policy: str = "balanced"
    """Preset whose values stand where nothing else is said: balanced, conservative, aggressive, observe-only."""
    model: ModelSettings = ModelSettings()
    stream: StreamSettings = StreamSettings()
    labels: LabelSettings = LabelSettings()
    select: SelectSettings = SelectSettings()
    adapt: AdaptSettings = AdaptSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    gate: GateSettings = GateSettings()
    watch: WatchSettings = WatchSettings()
    swap: SwapSettings = SwapSettings()
    store: StoreSettings = StoreSettings()
    serve: ServeSettings = ServeSettings()
    receiver: ReceiverSettings = ReceiverSettings()
    http: HttpSettings = HttpSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order of the sources: flags, environment, preset."""
        environment = _EnvironmentSource(settings_cls)
        return init_settings, environment, _PresetSource(settings_cls, init_settings, environment)

    @model_validator(mode="before")
    @classmethod
    def _drop_retired(cls, given: dict[str, Any]) -> dict[str, Any]:
        return without_retired(given, PREFIX)

    @model_validator(mode="after")
    def _one_password(self) -> Settings:
        if self.stream.sasl_password and self.stream.sasl_password_file:
            raise ValueError("give TTA_STREAM__SASL_PASSWORD or TTA_STREAM__SASL_PASSWORD_FILE, not both")
        return self


class _EnvironmentSource(EnvSettingsSource):
    """Variables; a text that is not JSON is left to the setting, which says what it expects."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        """All variables but the empty ones of settings that have no "none"."""
        found = super()._load_env_vars()
        return {name: text for name, text in found.items() if text or _may_be_empty(name)}

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """What JSON makes of the text, or the text."""
        try:
            return super().decode_complex_value(field_name, field, value)
        except (ValueError, RecursionError):
            return value


def _may_be_empty(name: str) -> bool:
    group, _, leaf = name.removeprefix(PREFIX.lower()).partition("__")
    found = Settings.model_fields.get(group)
    fields = getattr(found and found.annotation, "model_fields", {})
    return leaf in fields and values.may_be_empty(fields[leaf].annotation)


class _PresetSource(PydanticBaseSettingsSource):
    """The values of the chosen preset, below the environment."""

    def __init__(self, cls: type[BaseSettings], *above: PydanticBaseSettingsSource) -> None:
        super().__init__(cls)
        chosen = [source().get("policy") for source in above]
        self.policy = next((name for name in chosen if name), cls.model_fields["policy"].default)

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        """Unused: the preset is read whole."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """Settings of the preset as a nested dict."""
        return preset(self.policy)
