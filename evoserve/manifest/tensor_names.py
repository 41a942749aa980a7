"""Names of all tensors that the supported families can have, without looking at a checkpoint.

mergekit's filters act on names; to know what a filter meant, the importer and exporter need the
names. A checkpoint may lack some (biases, q/k norms, a tied head); it can have no others.
"""

EMBED_TENSORS = ("model.embed_tokens.weight",)
HEAD_TENSORS = ("model.norm.weight", "lm_head.weight")
LAYER_TENSORS = (
    "input_layernorm.weight",
    "self_attn.q_proj.weight",
    "self_attn.q_proj.bias",
    "self_attn.k_proj.weight",
    "self_attn.k_proj.bias",
    "self_attn.v_proj.weight",
    "self_attn.v_proj.bias",
    "self_attn.o_proj.weight",
    "self_attn.o_proj.bias",
    "self_attn.q_norm.weight",
    "self_attn.k_norm.weight",
    "mlp.gate_proj.weight",
    "mlp.gate_proj.bias",
    "mlp.up_proj.weight",
    "mlp.up_proj.bias",
    "mlp.down_proj.weight",
    "mlp.down_proj.bias",
    "post_attention_layernorm.weight",
)


def full_name(layer: int, short: str) -> str:
    """The tensor's name in a checkpoint."""
    return f"model.layers.{layer}.{short}"
