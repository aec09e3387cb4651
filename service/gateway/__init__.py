"""The composition root: endpoints, middleware, scale-to-zero, graceful shutdown, and the BentoML services."""
