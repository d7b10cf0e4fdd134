"""Measurements against a real cluster, by commands that print figures; docs/performance.md says how to repeat them."""
