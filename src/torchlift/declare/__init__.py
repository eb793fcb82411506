"""What a model takes and gives, as plain data."""
