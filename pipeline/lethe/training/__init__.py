"""Person-level differentially private training: plan, sampling, clipping, noise, models, loop."""
