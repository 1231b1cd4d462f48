"""Base images and dependency layers: make, key, store, share, evict."""
