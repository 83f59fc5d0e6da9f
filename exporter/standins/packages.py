"""Which names of which packages there are stand-ins for, and how they come into place and go again."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from torch import nn

from seqexport.exporter.standins import convolution, fla, mixers, norms, scan, ssd
from seqexport.runtimes.pytorch.attributes import attribute

Names = Mapping[str, Any]

INTERFACE: Names = {
    name: getattr(scan, name)
    for name in ("selective_scan_fn", "mamba_inner_fn", "mamba_inner_fn_no_out_proj", "bimamba_inner_fn")
} | {"selective_scan_ref": scan.selective_scan_fn, "mamba_inner_ref": scan.mamba_inner_fn}
BACKWARD = {"bwd": scan.no_gradient}
VMAMBA: Names = {"fwd": scan.selective_scan_cuda_core_fwd, **BACKWARD}
CONVOLUTION: Names = {name: getattr(convolution, name) for name in ("causal_conv1d_fn", "causal_conv1d_update")}
LAYER_NORM: Names = {name: getattr(norms, name) for name in ("RMSNorm", "rms_norm_fn", "layer_norm_fn")}

FLA_CONVOLUTION: Names = {"ShortConvolution": fla.ShortConvolution, "causal_conv1d": fla.causal_conv1d}
FLA_NORM: Names = {"RMSNorm": fla.RMSNorm, "LayerNorm": fla.LayerNorm}
FLA_GATED: Names = {"FusedRMSNormGated": fla.FusedRMSNormGated}
FLA_SIMPLE_GLA: Names = {
    "chunk_simple_gla": fla.chunk_simple_gla,
    "fused_chunk_simple_gla": fla.chunk_simple_gla,
    "fused_recurrent_simple_gla": fla.simple_gla,
}
FLA_RETENTION: Names = {f"{form}_retention": fla.retention for form in ("chunk", "fused_chunk", "fused_recurrent")}
FLA_UNSERVED: Names = {name: fla.unserved(name) for name in fla.UNSERVED}

PACKAGES: Mapping[str, Names] = {
    "mamba_ssm": {
        "selective_scan_fn": scan.selective_scan_fn,
        "mamba_inner_fn": scan.mamba_inner_fn,
        "Mamba": mixers.Mamba,
        "Mamba2": mixers.Mamba2,
    },
    "mamba_ssm.modules": {},
    "mamba_ssm.modules.mamba_simple": {"Mamba": mixers.Mamba, "Block": mixers.Block},
    "mamba_ssm.modules.mamba2": {"Mamba2": mixers.Mamba2},
    "mamba_ssm.modules.block": {"Block": mixers.Block},
    "mamba_ssm.ops": {},
    "mamba_ssm.ops.selective_scan_interface": INTERFACE,
    "mamba_ssm.ops.triton": {},
    "mamba_ssm.ops.triton.ssd_combined": {
        name: getattr(ssd, name) for name in ("mamba_chunk_scan_combined", "mamba_split_conv1d_scan_combined")
    },
    "mamba_ssm.ops.triton.selective_state_update": {"selective_state_update": ssd.selective_state_update},
    "mamba_ssm.ops.triton.layer_norm": LAYER_NORM,
    "mamba_ssm.ops.triton.layernorm": LAYER_NORM,
    "mamba_ssm.ops.triton.layernorm_gated": {
        "RMSNorm": norms.RMSNormGated,
        "LayerNorm": norms.LayerNormGated,
        "rmsnorm_fn": norms.rmsnorm_gated_fn,
        "layernorm_fn": norms.layernorm_gated_fn,
    },
    "causal_conv1d": CONVOLUTION,
    "causal_conv1d.causal_conv1d_interface": CONVOLUTION,
    "selective_scan_cuda": {"fwd": scan.selective_scan_cuda_fwd, **BACKWARD},
    "selective_scan_cuda_core": VMAMBA,
    "selective_scan_cuda_nrow": VMAMBA,
    "selective_scan_cuda_ndstate": VMAMBA,
    "selective_scan_cuda_oflex": {"fwd": scan.selective_scan_cuda_oflex_fwd, **BACKWARD},
    "fla": {},
    "fla.modules": {"ShortConvolution": fla.ShortConvolution, **FLA_NORM, **FLA_GATED},
    "fla.modules.convolution": FLA_CONVOLUTION,
    "fla.modules.conv": FLA_CONVOLUTION,
    "fla.modules.layernorm": FLA_NORM,
    "fla.modules.fused_norm_gate": FLA_GATED,
    "fla.ops": {**FLA_SIMPLE_GLA, **FLA_RETENTION, **FLA_UNSERVED},
    "fla.ops.simple_gla": FLA_SIMPLE_GLA,
    "fla.ops.retention": FLA_RETENTION,
    **{
        f"fla.ops.{name}": {each: refuse for each, refuse in FLA_UNSERVED.items() if each.endswith(f"_{name}")}
        for name in ("delta_rule", "gated_delta_rule", "kda", "gla")
    },
}


def is_of_a_package(function: Any) -> bool:
    """Whether a function is mamba_ssm's or its kin's, or stands in for one: it has their signature and layouts."""
    home = getattr(function, "__module__", None) or ""
    tops = {name.partition(".")[0] for name in PACKAGES} - {"fla"}
    return home.partition(".")[0] in tops or home.startswith(__package__)


class StandIn(ModuleType):
    """A Python module of stand-ins; a name that it lacks is said to be missing as an import says it."""

    def __init__(self, name: str, names: Names) -> None:
        super().__init__(name, f"seqexport's stand-in for {name}, which is not installed.")
        self.__path__: list[str] = []
        self.__spec__ = ModuleSpec(name, None, is_package=True)
        self.__version__ = "0"
        vars(self).update(names)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        known = ", ".join(sorted(each for each in vars(self) if each[0] != "_"))
        raise ImportError(f"seqexport's stand-in for {self.__name__} has no {name}; it has {known}", name=self.__name__)


@functools.cache
def _stand_in(name: str) -> StandIn:
    return StandIn(name, PACKAGES[name])


@contextmanager
def mamba_ssm() -> Iterator[None]:
    """Let models that import ``mamba_ssm``, ``causal_conv1d``, VMamba's scans or ``fla`` be imported, run and exported.

    Inside the block, what of these packages is not installed is there all the same, made of our ops: in PyTorch they
    run on any machine in plain PyTorch, without gradients; in an export they become nodes. The functions of those that
    are installed are replaced. Afterwards everything is as it was, and models that were made inside still run.

    ``mamba_ssm`` has its functions, norms, the mixers Mamba and Mamba2 and Block; rates of decay must be real.
    """
    with ExitStack() as stack:
        for top in dict.fromkeys(name.partition(".")[0] for name in PACKAGES):
            if top in sys.modules or _imports(top):
                continue
            for name in (name for name in PACKAGES if f"{name}.".startswith(f"{top}.")):
                sys.modules[name] = _stand_in(name)
                stack.callback(sys.modules.pop, name, None)
                parent, _, leaf = name.rpartition(".")
                if parent:
                    vars(_stand_in(parent)).setdefault(leaf, _stand_in(name))
        stack.enter_context(installed_replaced())
        yield


def _imports(name: str) -> bool:
    """Whether a package is installed, and whole: a build for another CUDA is there and fails."""
    if importlib.util.find_spec(name) is None:
        return False
    before = set(sys.modules)
    try:
        importlib.import_module(name)
    except Exception:
        for left in [each for each in sys.modules if each not in before and f"{each}.".startswith(f"{name}.")]:
            del sys.modules[left]
        return False
    return True


@contextmanager
def installed_replaced() -> Iterator[None]:
    """The functions of the packages that are installed and loaded are ours, wherever a loaded module holds them."""
    ours = {id(theirs): (theirs, own) for theirs, own in _installed()}
    with ExitStack() as stack:
        if ours:
            for home in list(sys.modules.values()):
                for name, value in list(getattr(home, "__dict__", {}).items()):
                    found = ours.get(id(value))
                    if found is not None and found[0] is value:
                        stack.enter_context(attribute(home, name, found[1]))
        yield


def _installed() -> Iterator[tuple[Any, Any]]:
    """Each function of an installed package, and what stands in for it; classes call functions, and stay."""
    for name, names in PACKAGES.items():
        home = sys.modules.get(name)
        if home is None or isinstance(home, StandIn):
            continue
        for key, own in names.items():
            theirs = vars(home).get(key)
            if theirs is not None and theirs is not own and not _is_module_class(theirs):
                yield theirs, own


def _is_module_class(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, nn.Module)
