"""Optional packages, by the extra of `pyproject.toml` that installs them."""

from __future__ import annotations

import importlib.util

from tta_agent.core.errors import ConfigError

# extra -> (package as it is imported, distribution)
EXTRAS = {
    "demo": ("matplotlib", "matplotlib"),
    "rehearse": ("sklearn", "scikit-learn"),
    "timm": ("timm", "timm"),
}


def missing(extra: str, purpose: str) -> str | None:
    """Message that names the package and how to install it; None where it is installed."""
    package, distribution = EXTRAS[extra]
    if importlib.util.find_spec(package) is not None:
        return None
    return f"{purpose} needs {distribution}, which is not installed: pip install 'tta-agent[{extra}]'"


def require(extra: str, purpose: str) -> None:
    """Check that an extra is installed, before its package is imported.

    Raises:
        ConfigError: it is not.
    """
    message = missing(extra, purpose)
    if message:
        raise ConfigError(message)
