"""How simple a model's weights are: block decomposition (bdm), description length (code_length),
ordinary compressors.
"""
