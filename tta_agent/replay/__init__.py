"""Whole policies played over one recording, compared with the source and an oracle, and held to rules."""
