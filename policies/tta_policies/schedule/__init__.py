"""When the copy is pulled back to the source: one file a schedule."""
