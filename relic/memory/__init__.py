"""Memory of a rollout: KV caches and the compression schedule."""
