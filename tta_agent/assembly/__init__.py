"""Settings to objects: the composition root, the only package that sees all others."""
