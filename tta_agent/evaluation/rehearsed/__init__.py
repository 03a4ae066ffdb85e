"""The run-time half of rehearsals: expected gain of a candidate with a conformal lower bound."""
