"""Image encoders: photos to tokens."""
