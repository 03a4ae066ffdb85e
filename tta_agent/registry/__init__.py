"""Immutable versions of the model, with manifest and verdict, on any fsspec store."""
