"""Teachers: their logits, and the losses by which a student learns from them."""
