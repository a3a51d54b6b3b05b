"""Verification of OIDC access tokens: compact form, keys of the issuer, claims."""
