"""The life of one generation request: parsed, resolved, admitted, dispatched to a replica, responded to."""
