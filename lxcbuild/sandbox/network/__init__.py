"""What a sandbox sees instead of a network: resolver, trap and proxy, and who asked for what."""
