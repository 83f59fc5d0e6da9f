"""The gated delta rule, as transformers and flash-linear-attention call it."""

from seqexport.exporter.patches.registry import missing

missing("torch_chunk_gated_delta_rule", "chunk_gated_delta_rule", op="GatedDeltaRule")
