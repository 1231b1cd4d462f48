"""One file per verb; here those that start sandboxes."""
