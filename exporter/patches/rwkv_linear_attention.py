"""The recurrence of RWKV."""

from seqexport.exporter.patches.registry import missing

missing("rwkv_linear_attention", op="RwkvLinearAttention")
