"""How well atoms explain particle images: the images as they are compared, the loss and its gradient."""
