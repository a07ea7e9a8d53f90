"""The HTTP service: captions over the network, in batches of those that arrive together."""
