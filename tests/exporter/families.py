"""Small random models of many families: odd sizes, no parameter left at 0 or 1."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from torch import Tensor, nn
from transformers import PreTrainedModel

from seqexport.runtimes.quiet import quiet

VOCAB = 37
TOKENS: dict[str, Any] = {
    "vocab_size": VOCAB,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
SIZES: dict[str, Any] = {
    **TOKENS,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}
HEADS: dict[str, Any] = {**SIZES, "head_dim": 10}
WINDOW = 6
MAMBA: dict[str, Any] = {"vocab_size": VOCAB, "hidden_size": 20, "state_size": 5, "num_hidden_layers": 2}
ALTERNATING = ["sliding_attention", "full_attention", "sliding_attention"]
GPT2: dict[str, Any] = {**TOKENS, "n_embd": 24, "n_head": 3, "n_layer": 2, "n_positions": 64}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [2.0, 3.0, 4.0, 5.0],
    "original_max_position_embeddings": 48,
}
JAMBA: dict[str, Any] = {
    **SIZES,
    "num_hidden_layers": 4,
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
    "mamba_d_state": 5,
    "mamba_dt_rank": 3,
    "mamba_d_conv": 3,
}
SSD: dict[str, Any] = {
    "mamba_n_heads": 6,
    "mamba_d_head": 8,
    "mamba_d_state": 5,
    "mamba_n_groups": 2,
    "mamba_d_conv": 3,
    "mamba_chunk_size": 4,
}
LIMIT = (0.4, 0.9)
"""Of time steps: most of what a random model would take lies outside."""

MAMBA2: dict[str, Any] = {
    **MAMBA,
    "hidden_size": 24,
    "num_heads": 6,
    "head_dim": 8,
    "n_groups": 2,
    "conv_kernel": 3,
    "chunk_size": 4,
}
ZAMBA2: dict[str, Any] = {
    **SIZES,
    "num_hidden_layers": 4,
    "num_key_value_heads": 3,
    "layers_block_type": ["linear_attention", "hybrid", "hybrid", "hybrid"],
    "n_mamba_heads": 6,
    "mamba_d_state": 5,
    "mamba_ngroups": 2,
    "chunk_size": 4,
    "num_mem_blocks": 2,
    "use_shared_attention_adapter": True,
    "adapter_rank": 4,
    "use_mem_rope": True,
    "time_step_min": LIMIT[0],
}
FALCON_H1: dict[str, Any] = {
    **HEADS,
    **SSD,
    "mamba_d_ssm": 48,
    "ssm_multipliers": [0.5, 1.5, 0.7, 1.2, 0.9],
    "mlp_multipliers": [0.8, 1.3],
    **{f"{name}_multiplier": x for name, x in {"embedding": 2.0, "lm_head": 0.5, "key": 0.6, "ssm_in": 1.2}.items()},
    **{f"{name}_multiplier": x for name, x in {"attention_in": 0.9, "attention_out": 1.1, "ssm_out": 0.7}.items()},
}
NEMOTRON_H: dict[str, Any] = {
    **{name: value for name, value in HEADS.items() if name != "num_hidden_layers"},
    "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp", "linear_attention"],
    "ssm_state_size": 5,
    "mamba_num_heads": 6,
    "mamba_head_dim": 8,
    "n_groups": 2,
    "conv_kernel": 3,
    "chunk_size": 4,
    "time_step_min": LIMIT[0],
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 24,
    "moe_shared_expert_intermediate_size": 28,
    "routed_scaling_factor": 2.5,
}
GRANITE: dict[str, Any] = {
    **SIZES,
    **SSD,
    "shared_intermediate_size": 40,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "embedding_multiplier": 3.0,
    "attention_multiplier": 0.3,
    "residual_multiplier": 0.7,
    "logits_scaling": 2.0,
}
# In float16 a token between two experts may go to the other; of these models' none does.
EXPERTS: dict[str, Any] = {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 16}
LFM2_MOE: dict[str, Any] = {
    **SIZES,
    **EXPERTS,
    "layer_types": ["conv", "full_attention", "conv"],
    "num_dense_layers": 1,
    "routed_scaling_factor": 1.5,
}

Build = Callable[[], PreTrainedModel]


@dataclass(frozen=True)
class Family:
    """The causal language model of a config class.

    Attributes:
        kind: the class's name without ``Config``, which is also transformers' name of the family.
    """

    kind: str
    settings: dict[str, Any]

    def __call__(self) -> PreTrainedModel:
        settings = copy.deepcopy(self.settings)  # transformers writes into those of rotary embeddings
        config = getattr(tf, f"{self.kind}Config")(**settings)
        model: PreTrainedModel = tf.AutoModelForCausalLM.from_config(config)
        return model


def of(kind: str, **settings: Any) -> Family:
    return Family(kind, settings)


EXPORTED: dict[str, Family] = {
    "mamba": of("Mamba", **MAMBA, conv_kernel=3, time_step_rank=3, use_bias=True),
    "falcon_mamba": of("FalconMamba", **MAMBA, conv_kernel=4, time_step_rank=3),
    "gpt2": of("GPT2", **GPT2),
    "gpt_neox": of("GPTNeoX", **{**SIZES, "num_key_value_heads": 3}),
    "llama": of("Llama", **SIZES, attention_bias=True),
    "mistral": of("Mistral", **HEADS, sliding_window=WINDOW),
    "qwen2": of("Qwen2", **SIZES, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1),
    "qwen3": of("Qwen3", **HEADS),
    "gemma2": of("Gemma2", **HEADS, sliding_window=WINDOW, query_pre_attn_scalar=11),
    "phi3": of("Phi3", **SIZES),
    "phi3_longrope": of("Phi3", **SIZES, original_max_position_embeddings=48, rope_parameters=LONGROPE),
    "mamba2": of("Mamba2", **MAMBA2, time_step_limit=LIMIT),
    "bamba": of("Bamba", **SIZES, **SSD, attn_layer_indices=[1]),
    "falcon_h1": of("FalconH1", **FALCON_H1),
    "falcon_h1_norm": of("FalconH1", **FALCON_H1 | {"num_hidden_layers": 2}, mamba_rms_norm=True),
    "zamba2": of("Zamba2", **ZAMBA2),
    "nemotron_h": of("NemotronH", **NEMOTRON_H),
    "nemotron_h_groups": of("NemotronH", **NEMOTRON_H, moe_latent_size=16, n_group=4, topk_group=2),
    "granite_hybrid": of("GraniteMoeHybrid", **GRANITE, num_local_experts=5),
    "granite_hybrid_dense": of("GraniteMoeHybrid", **GRANITE, num_local_experts=0, position_embedding_type="rope"),
    "jamba": of("Jamba", **JAMBA, num_experts=4, expert_layer_period=3, expert_layer_offset=0),
    "lfm2": of("Lfm2", **SIZES, layer_types=["conv", "full_attention", "conv"]),
    "lfm2_moe": of("Lfm2Moe", **LFM2_MOE),
    "mixtral": of("Mixtral", **SIZES, num_local_experts=5),
    "qwen2_moe": of(
        "Qwen2Moe", **SIZES, **EXPERTS | {"num_experts": 5}, shared_expert_intermediate_size=20, mlp_only_layers=[1]
    ),
    "qwen3_moe": of("Qwen3Moe", **HEADS, **EXPERTS, norm_topk_prob=True),
    "olmoe": of("Olmoe", **SIZES | {"num_key_value_heads": 3}, **EXPERTS),
    "cohere2": of("Cohere2", **SIZES, sliding_window=WINDOW, layer_types=ALTERNATING),
    "gemma3_text": of("Gemma3Text", **HEADS, sliding_window=WINDOW, query_pre_attn_scalar=11, layer_types=ALTERNATING),
    "granite": of("Granite", **SIZES, attention_multiplier=0.3, logits_scaling=2.0, embedding_multiplier=3.0),
    "olmo2": of("Olmo2", **SIZES),
    "opt": of("OPT", **{**SIZES, "ffn_dim": 40, "word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "smollm3": of("SmolLM3", **SIZES, no_rope_layers=[1, 0, 1]),
    "stablelm": of("StableLm", **SIZES),
    "starcoder2": of("Starcoder2", **SIZES, sliding_window=WINDOW),
}

OWN_ATTENTION = "computes attention itself in"
REFUSED: dict[str, tuple[Build, str]] = {
    "qwen3_next": (
        of("Qwen3Next", **HEADS, num_experts=2),
        "Qwen3NextForCausalLM needs the op GatedDeltaRule",
    ),
    "bloom": (of("Bloom", vocab_size=VOCAB, hidden_size=24, n_head=3, n_layer=2), OWN_ATTENTION),
    "falcon": (of("Falcon", **SIZES), OWN_ATTENTION),
    "gptj": (of("GPTJ", **GPT2, rotary_dim=4), OWN_ATTENTION),
    "recurrent_gemma": (
        of("RecurrentGemma", **SIZES, lru_width=24, head_dim=8, attention_window_size=WINDOW),
        "RecurrentGemmaForCausalLM needs the op RgLru (Griffin's recurrence), which this version does not have",
    ),
    "xlstm": (
        of("xLSTM", vocab_size=VOCAB, hidden_size=32, num_blocks=2, num_hidden_layers=2, num_heads=2),
        "xLSTMForCausalLM needs the op MLstm (xLSTM), which this version does not have",
    ),
    "rwkv": (
        of("Rwkv", vocab_size=VOCAB, hidden_size=24, num_hidden_layers=2),
        "needs the op RwkvLinearAttention",
    ),
}
REFUSED_IN_TRACING: dict[str, tuple[Build, str]] = {
    "doge": (of("Doge", **SIZES), "its layers compute with the attention mask; only causal attention is supported"),
    "bert": (
        of("Bert", **{k: v for k, v in SIZES.items() if k != "num_key_value_heads"}),
        "BertSelfAttention masks attention in a way that is neither causal nor a causal sliding window",
    ),
    "openai-gpt": (of("OpenAIGPT", **GPT2), "it keeps no states in its cache that the exporter knows"),
    "xmod": (
        of("Xmod", **{k: v for k, v in SIZES.items() if k != "num_key_value_heads"}, is_decoder=True),
        "of its modeling_xmod.py does what the exporter does not know",
    ),
}

TEXT: dict[str, Any] = {**SIZES, "head_dim": 8}
EYES: dict[str, Any] = {
    "hidden_size": 12,
    "intermediate_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}
EARS: dict[str, Any] = {
    "d_model": 12,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "num_mel_bins": 8,
}
DELTA: dict[str, Any] = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 6,
    "linear_value_head_dim": 6,
}


def wrapper(name: str, text: dict[str, Any], **config: Any) -> Build:
    """A model that reads more than text, by the name of its config class; as deep in its eyes as in its text part."""
    return lambda: tf.AutoModelForMultimodalLM.from_config(
        getattr(tf, f"{name}Config")(text_config={**TEXT, **text}, **config)
    )


def _eyes(name: str, **more: Any) -> dict[str, Any]:
    return {"vision_config": {"model_type": name, **EYES, **more}, "image_token_index": VOCAB - 1}


GEMMA3 = {"sliding_window": WINDOW, "query_pre_attn_scalar": 8, "layer_types": ALTERNATING}
WRAPPERS: dict[str, tuple[Build, str]] = {
    "gemma3": (
        wrapper("Gemma3", GEMMA3, mm_tokens_per_image=1, **_eyes("siglip_vision_model")),
        "Gemma3ForCausalLM",
    ),
    "mistral3": (wrapper("Mistral3", {"model_type": "mistral"}, **_eyes("pixtral", head_dim=6)), "MistralForCausalLM"),
    "llava": (wrapper("Llava", {"model_type": "llama"}, **_eyes("clip_vision_model")), "LlamaForCausalLM"),
    "qwen2_audio": (
        wrapper("Qwen2Audio", {"model_type": "qwen2"}, audio_config=EARS, audio_token_index=VOCAB - 1),
        "Qwen2ForCausalLM",
    ),
    "qwen3_5": (
        wrapper(
            "Qwen3_5",
            {**DELTA, "layer_types": ["linear_attention", "linear_attention", "full_attention"]},
            vision_config={**EYES, "depth": 1, "num_heads": 2, "out_hidden_size": 24},
        ),
        "Qwen3_5ForCausalLM",
    ),
}
"""Models that read images or sound too, and the class of the language model inside."""

NO_LANGUAGE_MODEL = wrapper(
    "Qwen2VL",
    {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 1e4}},
    vision_config={"depth": 1, "embed_dim": 12, "hidden_size": 24, "num_heads": 2},
)


def build(make: Build, seed: int = 0) -> PreTrainedModel:
    """The model with every weight drawn at random: no zero biases, no unit norms."""
    torch.manual_seed(seed)
    with quiet():
        model = make().eval()
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if isinstance(tensor, nn.Parameter) or name.endswith("bias"):  # a router's correction is a buffer
                tensor.copy_(_random(name, tensor))
    return model


def _random(name: str, parameter: Tensor) -> Tensor:
    if name.endswith("A_log"):
        return torch.rand_like(parameter) * 1.5 - 0.5
    if parameter.dim() == 1:
        return parameter + 0.2 * torch.randn_like(parameter)
    return torch.randn_like(parameter) * 0.6 * (parameter.shape[-1] ** -0.5)


def save(make: Build, folder: Path) -> Path:
    with quiet():
        build(make).save_pretrained(folder)
    return folder
