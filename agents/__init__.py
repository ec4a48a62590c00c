"""What touches tokens: policies, rendering, the episode loop and evaluation."""
