"""From a requested model name to a served model, and from there to one of its replicas."""
