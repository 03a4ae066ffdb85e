"""Which samples teach: one file a selector."""
