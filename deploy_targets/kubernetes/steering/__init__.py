"""What runs beside Envoy in a cluster. It is copied into the gateway's image, and imports nothing of Headgate."""
