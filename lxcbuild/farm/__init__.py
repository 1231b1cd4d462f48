"""Where builds run: an engine per way of spreading them."""
