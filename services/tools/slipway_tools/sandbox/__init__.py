"""The nsjail sandbox: what it is built from, how a program is run in it, and what of the machine it needs."""
