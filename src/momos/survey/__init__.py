"""Networks from elsewhere (Figure 2)."""
