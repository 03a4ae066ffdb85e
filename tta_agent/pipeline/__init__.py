"""The loop: its stages, its order, its checkpoint."""
