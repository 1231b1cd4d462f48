"""Scripts that run inside the sandbox, on the image's own Python (3.9 and later), with the standard library only."""
