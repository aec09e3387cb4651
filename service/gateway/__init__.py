"""The composition root: endpoints, middleware, scale-to-zero, shutdown, and the BentoML services."""
