"""Diffusion: how captions are corrupted, and the losses of restoring them."""
