"""A partitioned log with consumer groups in one SQLite file."""
