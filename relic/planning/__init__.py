"""What a world needs and how fast it will be, told before anything is loaded."""
