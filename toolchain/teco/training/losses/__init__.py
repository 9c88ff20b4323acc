"""What training minimises: flow, content, perceptual and adversarial losses."""
