"""A candidate against what serves on the same records: paired results, gates, sequential tests, proofs."""
