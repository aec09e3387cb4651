"""What happened to a request, and everything that is derived from it: metrics and the access log."""
