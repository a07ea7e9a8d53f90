"""Denoisers: a noisy caption latent and a photo to a clean one."""
