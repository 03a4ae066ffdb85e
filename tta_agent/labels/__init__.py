"""Late labels: joined with their inferences, counted, requested."""
