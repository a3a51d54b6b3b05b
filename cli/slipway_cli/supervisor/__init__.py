"""The one-machine supervisor behind `slipway up`: embedded servers and all services, started, watched and stopped."""
