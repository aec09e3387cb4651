"""Routing: the `model` of a request to a served model, and the request to one of its replicas."""
