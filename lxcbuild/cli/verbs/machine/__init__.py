"""Verbs about this machine: images, layers, policies, leftovers, the farm."""
