"""A structure module that folds, trained here in place of AlphaFold's, and what fine-tuning makes of it."""
