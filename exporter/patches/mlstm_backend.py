"""The matrix memory of xLSTM."""

from seqexport.exporter.patches.registry import missing

missing("mlstm_backend", op="MLstm (xLSTM)")
