"""Mamba-2's scan that trains fast, and the logits of the two presets that have it.

Transformers' own runs in float32 with a [CHUNK, CHUNK] matrix for each of B's and C's numbers. Here B and C are shared
by all heads, and the recurrence (Dao & Gu 2024, section 6: h is the state of one head, [P, N]) is four matrix products
for each chunk of CHUNK tokens:

    h[t] = exp(dt[t] * A) * h[t-1] + dt[t] * x[t] B[t]^T        y[t] = h[t] C[t]

    x  [rows, L, H, P]      dt  [rows, L, H]      A  [H]      B, C  [rows, L, N]      y  [rows, L, H, P]

In the einsums b is the row, c the chunk, t and s tokens of a chunk (s not after t), h the head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from preset_scan import causal_conv
from torch import Tensor

CHUNK = 64


def decays(logs: Tensor) -> Tensor:
    """exp(the sum of logs[s+1 .. t]) for s <= t, else 0: logs [..., T] to [..., T, T]."""
    total = logs.cumsum(-1)
    later = torch.ones(logs.shape[-1], logs.shape[-1], dtype=torch.bool, device=logs.device).triu(1)
    return (total[..., :, None] - total[..., None, :]).masked_fill(later, -torch.inf).exp()


def ssd_scan(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """The scan of float32 tensors; PyTorch differentiates it."""
    length = x.shape[1]
    x, logs = x * dt[..., None], dt * A
    x, logs, B, C = (
        F.pad(tensor.flatten(2), (0, 0, 0, -length % CHUNK)).unflatten(1, (-1, CHUNK)).unflatten(-1, tensor.shape[2:])
        for tensor in (x, logs, B, C)
    )
    logs = logs.permute(0, 3, 1, 2)  # b h c t
    total = logs.cumsum(-1)
    scores = torch.einsum("bctn,bcsn->bcts", C, B)[:, None] * decays(logs)  # b h c t s
    within = torch.einsum("bhcts,bcshp->bcthp", scores, x)
    to_the_end = (total[..., -1:] - total).exp().permute(0, 2, 3, 1)[..., None]  # b c s h 1
    added = torch.einsum("bcsn,bcshp->bchpn", B, to_the_end * x)  # what each chunk adds to the state
    over_chunks = decays(F.pad(total[..., -1], (1, 0)))[:, :, :-1, 1:]  # b h c d: a chunk's start from chunk d's end
    starts = torch.einsum("bhcd,bdhpn->bchpn", over_chunks, added)
    before = torch.einsum("bctn,bchpn->bcthp", C, starts)
    return (within + before * total.exp().permute(0, 2, 3, 1)[..., None]).flatten(1, 2)[:, :length]


def mamba2_mixer(mixer: torch.nn.Module, hidden: Tensor) -> Tensor:
    """What transformers' Mamba-2 mixers with one group compute for whole sequences, from the same weights."""
    channels, states, heads = mixer.intermediate_size, mixer.ssm_state_size, mixer.num_heads
    gate, xbc, dt = mixer.in_proj(hidden).split([channels, channels + 2 * states, heads], dim=-1)
    xbc = causal_conv(xbc, mixer.conv1d.weight, mixer.conv1d.bias)
    with torch.autocast(hidden.device.type, enabled=False):
        x, B, C = xbc.float().split([channels, states, states], dim=-1)
        x = x.unflatten(-1, (heads, mixer.head_dim))
        dt = F.softplus(dt.float() + mixer.dt_bias.float())
        y = ssd_scan(x, dt, -torch.exp(mixer.A_log.float()), B, C) + mixer.D.float()[:, None] * x
    return mixer.out_proj(mixer.norm(y.flatten(2), gate))


def mamba2_logits(model: torch.nn.Module, ids: Tensor) -> Tensor:
    """`Mamba2ForCausalLM`'s logits, by the fast scan."""
    hidden = model.backbone.embeddings(ids)
    for block in model.backbone.layers:
        hidden = hidden + mamba2_mixer(block.mixer, block.norm(hidden))
    return model.lm_head(model.backbone.norm_f(hidden))


def granite_logits(model: torch.nn.Module, ids: Tensor) -> Tensor:
    """`GraniteMoeHybridForCausalLM`'s logits without experts, by the fast scan and without its mask logic."""
    hidden = model.model.embed_tokens(ids) * model.model.embedding_multiplier
    for layer in model.model.layers:
        normed = layer.input_layernorm(hidden)
        mixed = mamba2_mixer(layer.mamba, normed) if layer.mamba else layer.self_attn(normed, attention_mask=None)[0]
        hidden = hidden + mixed * layer.residual_multiplier
        mlp = layer.shared_mlp(layer.post_attention_layernorm(hidden))
        hidden = hidden + mlp * layer.residual_multiplier
    return model.lm_head(model.model.norm(hidden)) / model.config.logits_scaling
