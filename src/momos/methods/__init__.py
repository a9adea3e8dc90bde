"""What is done to weights while a network trains: quantisation, mosaics of motifs."""
