"""What a project needs to be built and to run."""
