"""Where interrupted work goes on."""
