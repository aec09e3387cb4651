"""The `roundhouse` command: one module for each kind of work."""
