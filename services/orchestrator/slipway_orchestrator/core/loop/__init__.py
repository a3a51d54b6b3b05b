"""Loop agents: the model chooses tools until it is done."""
