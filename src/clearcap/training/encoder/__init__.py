"""Fine-tuning an ImageNet encoder to what captions say."""
