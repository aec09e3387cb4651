"""The GPU kit: measures a fleet on a GPU with one command, and reports the results."""
