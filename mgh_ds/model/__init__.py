"""The model: a backbone made bidirectional, LoRA, anchor-token-aware pooling, the `Encoder`, and export."""
