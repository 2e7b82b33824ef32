"""Loading trained agents safely."""
