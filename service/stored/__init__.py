"""Responses that are stored: one SQLite file, which every gateway process of a machine shares."""
