"""The recurrence of Griffin (RecurrentGemma)."""

from seqexport.exporter.patches.registry import missing

missing("_rnn_scan", op="RgLru (Griffin's recurrence)")
