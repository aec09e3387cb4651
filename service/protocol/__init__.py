"""The wire formats: request bodies and headers, the fields that we rewrite, and what we read from responses."""
