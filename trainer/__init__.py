"""From what happened to new weights: credit, losses, the training loop, recipes."""
