"""The life of one request: resolved, admitted, sent to a replica, streamed, recorded."""
