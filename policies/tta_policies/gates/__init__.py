"""When a candidate may serve: one file a gate."""
