"""What is kept of a failed build: its state, its explanation, a capsule."""
