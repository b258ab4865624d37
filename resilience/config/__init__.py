"""What the operator decides: config.yml and the environment, read once and validated."""
