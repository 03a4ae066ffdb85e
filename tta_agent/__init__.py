"""Test-time adaptation and monitoring agent for deployed models."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("tta-agent")
except PackageNotFoundError:  # a clone that was never installed
    __version__ = "0+unknown"
