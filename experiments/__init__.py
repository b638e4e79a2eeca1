"""One file per study, and the command line."""
