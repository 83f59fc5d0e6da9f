"""The scan of the Mamba-2 families, as transformers and mamba_ssm call it."""

from seqexport.exporter.patches.registry import missing

missing("mamba2_chunk_scan", "mamba_chunk_scan_combined", "mamba2_split_conv1d_scan_combined", op="SsdScan (Mamba-2)")
