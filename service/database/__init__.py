"""SQLite files that several processes share, and which of those processes live."""
