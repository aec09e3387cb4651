"""Adds a user's own model to the catalogue: reads its files, drafts an entry, validates it and writes it."""
