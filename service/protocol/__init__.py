"""The wire: the request fields we know, the edits we make to a body, and what we watch in an answer."""
