"""From a graph to a TensorRT engine: parse, set types and profiles, build, write the plan with its record.

What is computed in which type is what the graph says: float32 without TF32, half precision only where the graph has it.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seqexport.plugins import library
from seqexport.plugins.errors import UserError
from seqexport.plugins.publish import require_writable, write_whole
from seqexport.plugins.reading import ANY, read
from seqexport.runtimes.bundle import MODEL, Bundle
from seqexport.runtimes.comparison.module_reference import read_module_reference
from seqexport.runtimes.external_data import check_inside
from seqexport.runtimes.trt import versions
from seqexport.runtimes.trt.cuda import Cuda, load_runtime
from seqexport.runtimes.trt.graph import drops_bodies, graph_bytes, node_at
from seqexport.runtimes.trt.precision import pin_types
from seqexport.runtimes.trt.profiles import GivenShapes, bundle_profiles, module_profile, plain_profile
from seqexport.runtimes.trt.record import (
    FOLDER,
    FORMAT_VERSION,
    EngineRecord,
    Platform,
    PluginsUsed,
    Profile,
    require_writable_engine,
    weights_hash,
    write_engine,
)
from seqexport.runtimes.trt.versions import Log, Progress


@dataclass(frozen=True)
class BuildOptions:
    """What ``seqexport build`` asks for; None means what TensorRT itself does.

    Attributes:
        shapes: instead of the usual profiles.
        plugins: build our ops as plugins, not from their function bodies.
        timing_cache: a file of measured timings, read if it is there and written after the build.
        optimization_level: 0 (fastest build) to 5 (fastest engine).
        memory_pools: bytes, by TensorRT's name of the pool.
        version_compatible: later versions of the same major can run the engine.
        serialize_plugins: the plan carries the plugin library.
        tactic_sources: names of those that may be used.
        preview: preview features to turn on or off, as in ``-fasterDynamicShapes0805``.
        flags: the options that shape the engine, as they were spelled, for the record.
    """

    shapes: GivenShapes = field(default_factory=GivenShapes)
    plugins: bool = True
    timing_cache: Path | None = None
    optimization_level: int | None = None
    memory_pools: Mapping[str, int] = field(default_factory=dict)
    version_compatible: bool = False
    serialize_plugins: bool = False
    tactic_sources: Sequence[str] | None = None
    preview: Sequence[str] = ()
    flags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Tools:
    """What a build works with: the package, its logger and what that heard, the device, and what it is."""

    trt: Any
    logger: Any
    log: Log
    cuda: Cuda
    here: Platform

    @classmethod
    def here_and_now(cls) -> _Tools:
        trt, runtime = versions.load_tensorrt(), load_runtime()
        try:
            import polygraphy.backend.trt  # noqa: F401
        except ImportError as error:
            raise UserError(f"building engines needs Polygraphy ({error}): pip install polygraphy") from error
        logger, log = versions.logger(trt)
        cuda = Cuda(runtime)
        gpu = cuda.gpu()
        return cls(trt, logger, log, cuda, Platform(gpu.name, gpu.compute_capability, versions.version(trt)))


def check_builds(bundle: Bundle) -> None:
    """Raises UserError: something that ``build`` needs is missing here."""
    tools = _Tools.here_and_now()
    with tools.cuda:
        drops_bodies(bundle, plugins=True, major=versions.major(tools.trt))
        if bundle.manifest.ops:
            versions.load_plugins(tools.trt)


def build(bundle: Bundle, options: BuildOptions, progress: Progress) -> Path:
    """Build a bundle's engine for this machine's GPU and TensorRT; gives the plan in the bundle's ``engines``.

    Raises:
        UserError: something is missing, the graph or an option is refused, or memory ran out; nothing was written.
    """
    tools = _Tools.here_and_now()
    with tools.cuda:
        drop = drops_bodies(bundle, plugins=options.plugins, major=versions.major(tools.trt))
        name = f"{tools.here.engine_name}.plan"
        require_writable_engine(bundle.path / FOLDER / name)
        profiles = profiles_of(bundle, options.shapes)
        ours = versions.load_plugins(tools.trt) if options.plugins and bundle.manifest.ops else None
        graph = graph_bytes(bundle.model, drop=drop)
        if ours and (fault := versions.known_fault(tools.trt, bundle.manifest.ops, graph)):
            progress.warn(fault)
        tools.log.clear()
        build = _Build(tools, options, bundle.model, graph)
        if not options.plugins:
            _check_no_shape_inputs(bundle, build.network)
        plan = build.plan(profiles, ours, progress)
        return write_engine(
            bundle.path / FOLDER,
            plan,
            EngineRecord(
                **_common(tools.here, options, plan, profiles, name),
                plugins=PluginsUsed(ours.sha256, ours.seqexport) if ours else None,
                model_sha256=bundle.manifest.files[MODEL],
                weights_sha256=weights_hash(bundle),
            ),
        )


def profiles_of(bundle: Bundle, given: GivenShapes) -> dict[str, Profile]:
    """The profiles of a bundle's engine, whatever its graph is of.

    Raises:
        UserError: a shape does not fit, or the sizes contradict each other.
    """
    if bundle.manifest.language_model is not None:
        return bundle_profiles(bundle.manifest, given)
    cases = read_module_reference(bundle).cases
    return module_profile(bundle.manifest, [case.sizes(bundle.manifest) for case in cases], given)


def build_plain(model: Path, options: BuildOptions, progress: Progress) -> Path:
    """Build any ONNX file through plain TensorRT, with its own plugins; gives the plan, which lies beside the file.

    Raises:
        UserError: as ``build``.
    """
    tools = _Tools.here_and_now()
    with tools.cuda:
        name = f"{model.stem}-{tools.here.engine_name}.plan"
        require_writable_engine(model.parent / name)
        tools.trt.init_libnvinfer_plugins(tools.logger, "")
        tools.log.clear()
        graph = graph_bytes(model, drop=False)
        check_inside(model)
        build = _Build(tools, options, model, graph)
        inputs = {tensor.name: tuple(tensor.shape) for tensor in build.inputs}
        profiles = {"default": plain_profile(inputs, options.shapes)}
        plan = build.plan(profiles, None, progress)
        return write_engine(
            model.parent,
            plan,
            EngineRecord(
                **_common(tools.here, options, plan, profiles, name),
                plugins=None,
                model_sha256=hashlib.sha256(graph).hexdigest(),
            ),
        )


def _common(
    here: Platform, options: BuildOptions, plan: memoryview, profiles: dict[str, Profile], name: str
) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "plan": name,
        "sha256": hashlib.sha256(plan).hexdigest(),
        "gpu": here.gpu,
        "compute_capability": here.compute_capability,
        "tensorrt": here.tensorrt,
        "seqexport": library.version(),
        "profiles": profiles,
        "flags": dict(options.flags),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _check_no_shape_inputs(bundle: Bundle, network: Any) -> None:
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if tensor.is_shape_tensor:
            raise UserError(
                f"{bundle.path}: in its ops' function bodies, sizes depend on the values of {tensor.name}, which "
                "TensorRT must know before it runs; build it with the plugins instead of `plugins=False`"
            )


class _Build:
    """A parsed graph on its way to a plan."""

    def __init__(self, tools: _Tools, options: BuildOptions, model: Path, graph: bytes) -> None:
        self.tools, self.options, self.model = tools, options, model
        trt = tools.trt
        self.builder = trt.Builder(tools.logger)
        self.network = self.builder.create_network(versions.network_flags(trt))
        self.parser = trt.OnnxParser(self.network, tools.logger)
        if not self.parser.parse(graph, str(model.resolve())):
            raise UserError(f"TensorRT {tools.here.tensorrt} cannot read {model}: {self._parse_error(graph)}")

    @property
    def inputs(self) -> list[Any]:
        return [self.network.get_input(index) for index in range(self.network.num_inputs)]

    def plan(self, profiles: Mapping[str, Profile], ours: library.Built | None, progress: Progress) -> memoryview:
        trt = self.tools.trt
        pinned = not versions.strongly_typed(trt) and pin_types(trt, self.network)
        monitor = versions.progress_monitor(trt, progress)
        config = self._config(profiles, monitor, half=pinned)
        if ours and self.options.serialize_plugins:
            config.plugins_to_serialize = [str(ours.path)]
        timings = self._read_timing_cache(config, progress)
        plan = self.builder.build_serialized_network(self.network, config)
        if self.tools.log.interrupted or (monitor is not None and monitor.interrupted):
            raise KeyboardInterrupt
        if plan is None:
            raise UserError(self._build_error())
        self._write_timing_cache(config, timings, progress)
        return memoryview(plan)

    def _config(self, profiles: Mapping[str, Profile], monitor: Any, *, half: bool) -> Any:
        from polygraphy import exception
        from polygraphy.backend.trt import CreateConfig
        from polygraphy.backend.trt import Profile as TrtProfile
        from polygraphy.logger import G_LOGGER

        options, trt = self.options, self.tools.trt
        described = [TrtProfile() for _ in profiles]
        for profile, shapes in zip(described, profiles.values(), strict=True):
            for name, (low, best, high) in shapes.items():
                profile.add(name, low, best, high)
        sources = options.tactic_sources
        create = CreateConfig(
            profiles=described,
            fp16=half,
            precision_constraints="obey" if half else None,
            memory_pool_limits=self._pools(),
            builder_optimization_level=options.optimization_level,
            version_compatible=options.version_compatible or None,
            tactic_sources=None if sources is None else versions.tactic_sources(trt, sources),
            progress_monitor=monitor,
        )
        try:
            with G_LOGGER.verbosity(G_LOGGER.CRITICAL + 1):
                config = create(self.builder, self.network)
        except exception.PolygraphyException as error:
            raise UserError(f"TensorRT {self.tools.here.tensorrt} refuses an option: {error}") from error
        features = versions.default_features(trt) | versions.preview_features(trt, options.preview)
        for feature, on in features.items():
            config.set_preview_feature(feature, on)
        return config

    def _pools(self) -> dict[Any, int] | None:
        trt, pools = self.tools.trt, dict[Any, int]()
        for name, size in self.options.memory_pools.items():
            pool = versions.memory_pool(trt, name)
            pools[pool] = size
        return pools or None

    def _read_timing_cache(self, config: Any, progress: Progress) -> bytes:
        """What the timing cache's file holds, given to the build too; without a file, the build has an empty cache."""
        file, here, log = self.options.timing_cache, self.tools.here, self.tools.log
        if file is None:
            return b""
        try:
            data = read(file, ANY) if file.exists() else b""
            require_writable(file)
        except OSError as error:
            raise UserError(f"--timingCacheFile {file}: cannot be read or written ({error.strerror})") from error
        if not data:
            return data
        cache = config.create_timing_cache(data)
        if cache is None or not config.set_timing_cache(cache, False):
            if not versions.loses_timings(self.tools.trt, log.cause()):
                raise UserError(
                    f"--timingCacheFile {file}: not a timing cache of {here} ({log.cause()}); give another file"
                )
            log.clear()
            progress.warn(f"TensorRT {here.tensorrt} cannot read the timings it wrote to {file}: it measures again")
        return data

    def _write_timing_cache(self, config: Any, before: bytes, progress: Progress) -> None:
        """Only warns where that fails: the engine is built by then."""
        file = self.options.timing_cache
        cache = config.get_timing_cache() if file else None
        now = bytes(cache.serialize()) if cache else before
        if file is None or now == before:
            return
        try:
            write_whole(file, now)
        except OSError as error:
            progress.warn(
                f"--timingCacheFile {file}: cannot be written ({error.strerror or error}); the timings are lost"
            )

    def _parse_error(self, graph: bytes) -> str:
        """The node, and what our plugin or else the parser says of it."""
        errors = [self.parser.get_error(index) for index in range(self.parser.num_errors)]
        if not errors:
            return self.tools.log.cause() or "it is no ONNX model"
        error = errors[0]
        where = versions.node_of(error) or node_at(graph, error.node())
        ours = [line.partition("seqexport: ")[2] for line in self.tools.log.errors if "seqexport: " in line]
        return f"node {where or error.node()}: {ours[0] if ours else ' '.join(error.desc().split())}"

    def _build_error(self) -> str:
        errors, here = self.tools.log.errors, self.tools.here.tensorrt
        if any("out of memory" in error.lower() or "outofmemory" in error.lower() for error in errors):
            free = self.tools.cuda.free_text()
            return (
                f"device memory ran out while TensorRT {here} built {self.model} (free now: {free}); close other "
                "programs on the GPU, or give --memPoolSize and smaller --maxShapes"
            )
        return f"TensorRT {here} cannot build {self.model}: {self.tools.log.cause() or 'it does not say why'}"


def parse_pools(text: str | None) -> dict[str, int]:
    """``workspace:1024,tacticSharedMem:48K`` to bytes by name; without a unit, MiB.

    Raises:
        UserError: naming the part that is none.
    """
    pools: dict[str, int] = {}
    for part in text.split(",") if text else ():
        name, _, size = part.partition(":")
        unit = size[-1:] if size[-1:] in "BKMG" else "M"
        digits = size.removesuffix(unit) if size[-1:] == unit else size
        if not name or not digits.isdecimal() or len(digits) > 9:
            raise UserError(f"--memPoolSize {part!r}: expected a pool and a size in MiB, as in workspace:1024")
        pools[name] = int(digits) << 10 * "BKMG".index(unit)
    return pools
