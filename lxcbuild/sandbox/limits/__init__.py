"""Every limit as a value: where it is written, how it is read back, what it means."""
