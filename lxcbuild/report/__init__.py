"""Tables, plots and the static site; reads the ledger only."""
