"""Where state lives on disk: directories, locks, claims, slots, configuration files."""
