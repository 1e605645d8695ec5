"""Several processes that compute one world together, on torch.distributed alone."""
