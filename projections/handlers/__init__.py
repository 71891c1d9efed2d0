"""What follows from events outside of the read models: each handler is a file, and a line in registry.py."""
