"""Detectors of change in the records, and data regimes."""
