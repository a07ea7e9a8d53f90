"""A captioner: text space, image encoder and denoiser as one network; built, loaded, shared, run."""
