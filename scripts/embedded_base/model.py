"""The architecture: StarCoder2's, small (5.2 M parameters)."""

from __future__ import annotations

from transformers import Starcoder2Config

CONTEXT = 2048  # trained natively; the window of 4,096 is StarCoder2's
ROPE_THETA = 100_000.0


def configuration() -> Starcoder2Config:
    """StarCoder2's configuration at 6 layers of 256; all dropouts 0."""
    return Starcoder2Config(
        vocab_size=4096,
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=2,
        hidden_act="gelu_pytorch_tanh",
        max_position_embeddings=CONTEXT,
        sliding_window=4096,
        use_bias=True,
        norm_epsilon=1e-5,
        initializer_range=0.018042,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        attention_dropout=0.0,
        residual_dropout=0.0,
        embedding_dropout=0.0,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        architectures=["Starcoder2ForCausalLM"],
    )
