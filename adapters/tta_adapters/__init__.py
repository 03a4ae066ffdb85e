"""How the model changes: one file a method."""
