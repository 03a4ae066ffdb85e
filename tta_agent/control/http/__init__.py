"""The agent's own interface over HTTP."""
