"""What the hostile suite needs: the service under attack, the host that is watched, the programs."""
