"""Following the index: new releases as they appear."""
