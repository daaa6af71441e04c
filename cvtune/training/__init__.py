"""From pretrained weights to a classifier: linear probe, then staged fine-tuning with Lightning."""
