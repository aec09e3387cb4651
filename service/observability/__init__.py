"""The record of a request, and what is derived from it: metrics and the access log."""
