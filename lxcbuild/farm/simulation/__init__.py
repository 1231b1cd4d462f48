"""The true schedule over an invented index."""
