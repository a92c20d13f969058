"""Ways to clip each person's gradient, chosen by what the model allows."""
