"""Whole policies over one recording: played, compared, drawn, and held to a rule."""
