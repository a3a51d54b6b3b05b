"""Resources as the API shows them, and their conversion from the services' messages."""
