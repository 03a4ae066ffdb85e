"""Images and a trained net of the package, for the demo and for tests."""
