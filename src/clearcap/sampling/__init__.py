"""Sampling: from pure noise to a caption latent, and to the best of several."""
