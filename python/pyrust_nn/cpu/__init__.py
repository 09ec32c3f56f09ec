"""What makes training fast on a CPU in fp32: products, fused operations, and the patches that put them into a model."""
