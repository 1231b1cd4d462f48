"""One build: the states and one file per phase; sequences, never decides."""
