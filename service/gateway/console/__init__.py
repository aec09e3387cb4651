"""The console: a web page of the gateway, and the JSON that it shows."""
