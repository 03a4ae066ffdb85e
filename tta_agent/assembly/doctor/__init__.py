"""`tta-agent doctor`: what stands between these settings and a running agent, each failure with its fix."""
