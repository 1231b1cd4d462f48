"""Where the jobs of a plan run: processes of this machine, or workers of a cluster."""
