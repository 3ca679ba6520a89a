"""Score saved models on images and compare them, with confidence intervals by patient."""
