"""Detectors of change in what arrives."""
