"""Files of projects: sources and wheels, their names and hashes, downloads, local directories."""
