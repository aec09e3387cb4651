"""The HTTP/1.1 client towards replicas: connecting, one exchange at a time, and a pool of idle connections."""
