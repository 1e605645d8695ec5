"""Video auto-encoders."""
