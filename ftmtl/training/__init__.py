"""Training: augment → samples → targets → stages → loop, with checkpoints that resume."""
