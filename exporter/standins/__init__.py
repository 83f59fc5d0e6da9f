"""What models import of packages that need a GPU to be installed: mamba_ssm, causal_conv1d, VMamba's scans.

Each function is one of ours behind the package's own signature and layouts. In PyTorch it runs by our ops' references,
in float32 or float64 on any machine; in a trace it becomes a node. Where a package is installed, its functions are
replaced wherever a loaded Python module holds them, and are back afterwards.
"""

from seqexport.exporter.standins.packages import installed_replaced, mamba_ssm

__all__ = ["installed_replaced", "mamba_ssm"]
