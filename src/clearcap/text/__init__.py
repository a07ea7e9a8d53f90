"""Text spaces: how a caption becomes a latent, and a latent a caption."""
