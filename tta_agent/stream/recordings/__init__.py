"""Recordings: folders of Parquet files with a JSON index."""
