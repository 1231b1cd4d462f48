"""The command line: one file per verb; the only room that composes the others and speaks to people."""
