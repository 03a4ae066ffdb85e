"""The commands of `tta-agent`."""
