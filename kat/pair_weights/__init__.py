"""From weights of openings to one weight a pair, and a split."""
