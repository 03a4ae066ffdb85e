"""Benchmarks of methods: streams, protocols, measured cells, tables."""
