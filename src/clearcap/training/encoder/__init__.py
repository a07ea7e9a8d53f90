"""Image encoders made by distillation, or by fine-tuning an ImageNet network; a second encoder beside the first."""
