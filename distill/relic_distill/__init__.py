"""Training: video VAE, causal world model, and the distillation stages."""
