"""What this host offers, and what earlier commands left behind on it."""
