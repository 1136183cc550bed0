"""Sources of atoms: what fine-tuning moves, and how. They know nothing of images."""
