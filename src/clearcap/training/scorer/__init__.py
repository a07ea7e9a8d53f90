"""Training of a scorer: a small contrastive model of photos and captions."""
