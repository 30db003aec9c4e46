"""Vertex AI: endpoints of one project and location."""
