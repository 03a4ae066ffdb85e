"""Plugins that do one visible thing each; tests copy a module into a distribution of its own."""
