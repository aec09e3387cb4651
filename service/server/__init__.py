"""The HTTP/1.1 edge towards clients: connections, requests, deadlines, and the part of ASGI that we use."""
