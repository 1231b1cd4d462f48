"""The SQL record of every build."""
