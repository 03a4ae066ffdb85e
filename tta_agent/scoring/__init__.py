"""Scores of single answers, and their distributions."""
