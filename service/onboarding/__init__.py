"""A model of the user's own on its way into the catalogue: described, drafted as an entry, written."""
