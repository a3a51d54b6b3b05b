"""The environment as settings read it: trimmed, blank is not set, and names that no setting has are found."""

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


def misspelt_settings(settings: type[BaseSettings], *, others: frozenset[str] = frozenset()) -> list[str]:
    """A sentence for each variable with the prefix whose name is nearly a setting's, and none of `others`."""
    prefix = _prefix(settings)
    return [
        f"{prefix}{name} is no setting: is {prefix}{meant} meant?"
        for name, meant in _strangers(settings, others)
        if meant
    ]


def unknown_settings(settings: type[BaseSettings], *, others: frozenset[str] = frozenset()) -> list[str]:
    """The variables with the prefix that are like no setting, and none of `others`: perhaps of another release."""
    return [f"{_prefix(settings)}{name}" for name, meant in _strangers(settings, others) if not meant]


def _prefix(settings: type[BaseSettings]) -> str:
    return settings.model_config.get("env_prefix", "").upper()


def _strangers(settings: type[BaseSettings], others: frozenset[str]) -> list[tuple[str, str]]:
    """Names without the prefix, each with the setting that may be meant, or nothing."""
    prefix = _prefix(settings)
    known = {name.upper() for name in settings.model_fields}
    found: list[tuple[str, str]] = []
    for name in sorted(name.removeprefix(prefix) for name in os.environ if name.startswith(prefix)):
        if name in known or name in others or _SERVICE_LINK.fullmatch(name):
            continue
        meant = difflib.get_close_matches(name, sorted(known), n=1, cutoff=_NEARLY)
        found.append((name, meant[0] if meant else ""))
    return found
