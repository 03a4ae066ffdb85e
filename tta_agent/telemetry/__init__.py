"""Spans, metrics and the event log."""
