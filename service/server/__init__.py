"""The HTTP/1.1 server side: client connections, requests, timeouts, and the part of ASGI that we use."""
