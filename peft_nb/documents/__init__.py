"""Documents, cut into chunks that are found by their words and by what they mean; PyTorch is imported to embed them."""
