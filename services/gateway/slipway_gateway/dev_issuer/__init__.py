"""A development OIDC issuer: signs in the people of a Keycloak realm file, with the claims that Keycloak gives.

Its passwords stand in a file in plain text, so it refuses to listen on any address but loopback.
"""
