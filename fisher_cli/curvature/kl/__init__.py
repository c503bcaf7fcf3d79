"""The KL divergence between the predictions of two networks, and its second-order form."""
