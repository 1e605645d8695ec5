"""Network, conditioning and attention of the world model."""
