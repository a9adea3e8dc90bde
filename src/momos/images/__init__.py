"""Images: data sets, augmentation, and how batches become a network's input."""
