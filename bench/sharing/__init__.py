"""Models that take turns in a memory too small for all of them, on a virtual clock."""
