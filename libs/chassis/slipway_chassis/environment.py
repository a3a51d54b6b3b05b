"""The environment as settings read it: trimmed, blank is not set, and a name that no setting has is told."""

import difflib
import os
import re
from collections.abc import Mapping

from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource

# What Kubernetes sets in pods for a Service `slipway-router`, unless they say enableServiceLinks: false.
_SERVICE_LINK = re.compile(r"(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)")
_NEARLY = 0.8  # of what difflib takes for the same


class TrimmedEnvironment(EnvSettingsSource):
    """Values without blanks and line ends around them, as files of secrets have; one that is blank is not set."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        loaded = super()._load_env_vars()
        trimmed = {name: value.strip() if value is not None else None for name, value in loaded.items()}
        return {name: value for name, value in trimmed.items() if value}


class EnvironmentSettings(BaseSettings):
    """Settings from the environment alone."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment."""
        return init_settings, TrimmedEnvironment(settings_cls)


def unknown_settings(
    settings: type[BaseSettings], *, others: frozenset[str] = frozenset(), free: bool = False
) -> list[str]:
    """A sentence for each variable with the settings' prefix that is none of them, nor one of `others`.

    `free`: other names are used by something else too; only those that are nearly a setting's are told.
    """
    prefix = settings.model_config.get("env_prefix", "").upper()
    known = {name.upper() for name in settings.model_fields}
    names = sorted(name.removeprefix(prefix) for name in os.environ if name.startswith(prefix))
    found: list[str] = []
    for name in names:
        if name in known or name in others or _SERVICE_LINK.fullmatch(name):
            continue
        meant = difflib.get_close_matches(name, sorted(known), n=1, cutoff=_NEARLY)
        if meant:
            found.append(f"{prefix}{name} is no setting: is {prefix}{meant[0]} meant?")
        elif not free:
            found.append(f"{prefix}{name} is no setting: take it away")
    return found
