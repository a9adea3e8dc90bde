"""Images: data sets, augmentation, network inputs."""
