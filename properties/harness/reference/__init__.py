"""What torch is judged by: hand-written gradients and update rules, in float64."""
