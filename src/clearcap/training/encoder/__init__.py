"""Image encoders made by distillation."""
