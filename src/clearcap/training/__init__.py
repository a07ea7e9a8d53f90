"""Training: fit a captioner, its text space and its image encoder."""
