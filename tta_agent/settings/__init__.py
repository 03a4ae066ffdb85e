"""Settings by environment variable and preset; the only readers of the environment."""
