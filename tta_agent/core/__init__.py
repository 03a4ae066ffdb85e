"""Values, protocols, errors, events, plugins and files that every room may import."""
