"""Image encoder and denoiser trained together, on photos that are read anew at every step."""
