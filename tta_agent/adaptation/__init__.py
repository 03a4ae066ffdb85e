"""One adaptation step on the accelerator, and what surrounds it."""
