"""What the gateway's tests stand on: processes, and services behind the gateway."""
