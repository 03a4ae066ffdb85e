"""The settings, and the only readers of the environment."""
