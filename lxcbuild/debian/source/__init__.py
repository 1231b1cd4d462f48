"""From facts about a project to a Debian source package."""
