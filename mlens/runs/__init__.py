"""Order among runs: which there are and how they ended, and room made by removing what finished ones don't need."""
