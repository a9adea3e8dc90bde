"""How simple a model's weights are: BDM, description length, ordinary compressors."""
