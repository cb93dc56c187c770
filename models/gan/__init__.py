"""Generative adversarial networks: generators, critics, guide and their training."""
