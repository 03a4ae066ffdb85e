"""One adaptation step on the accelerator, with reference model, sliding window and optimiser health."""
