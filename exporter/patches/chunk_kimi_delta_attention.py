"""Kimi's delta attention."""

from seqexport.exporter.patches.registry import missing

missing("chunk_kimi_delta_attention", op="KimiDeltaAttention")
