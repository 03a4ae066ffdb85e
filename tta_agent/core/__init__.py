"""What everybody may import: values, protocols, errors, plugin loading, atomic files."""
