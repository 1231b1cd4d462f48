"""Decisions without any input or output: order, layers, backends, how many at once."""
