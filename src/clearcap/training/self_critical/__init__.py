"""Training by reward: captions are drawn, scored against people's, and made more or less likely."""
