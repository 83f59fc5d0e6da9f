#include "options.h"

#include "error.h"

namespace seqexport {
namespace {

Shapes shapes_from(const std::string& text) {
  Shapes shapes;
  for (const std::string& item : split(text, ',')) {
    const size_t colon = item.rfind(':');
    const UserError bad("'" + item + "': expected INPUT:SIZExSIZE..., as in input_ids:1x512");
    if (colon == std::string::npos || colon == 0) throw bad;
    Shape& shape = shapes[item.substr(0, colon)];
    if (!shape.empty()) throw UserError(item.substr(0, colon) + " is given twice");
    for (const std::string& size : split(item.substr(colon + 1), 'x')) {
      const auto value = number(size, 1);
      if (!value) throw bad;
      shape.push_back(*value);
    }
  }
  return shapes;
}

std::map<std::string, uint64_t> pools_from(const std::string& text) {
  std::map<std::string, uint64_t> pools;
  for (const std::string& item : split(text, ',')) {
    const size_t colon = item.find(':');
    const UserError bad("'" + item +
                        "': expected POOL:SIZE with SIZE in MiB or with a suffix B, K, M or G, "
                        "as in workspace:1024 or tacticSharedMem:48K");
    if (colon == std::string::npos) throw bad;
    std::string size = item.substr(colon + 1);
    const size_t unit = size.empty() ? std::string::npos : std::string("BKMG").find(size.back());
    if (unit != std::string::npos) size.pop_back();
    const auto value = number(size, 0);
    if (!value || *value > int64_t(1) << 32) throw bad;
    pools[item.substr(0, colon)] = uint64_t(*value) << 10 * (unit == std::string::npos ? 2 : unit);
  }
  return pools;
}

int level_from(const std::string& text) {
  const auto level = number(text, 0);
  if (!level || *level > 5) throw UserError("'" + text + "': expected 0 to 5");
  return int(*level);
}

// The flags in the order of the help. Those that shape the engine are noted as they were spelled.
std::vector<Flag> flags_of(Options& o) {
  const auto noted = [&o](Flag flag) {
    flag.set = [&o, name = flag.name, set = flag.set](const std::string& value) {
      set(value);
      o.given[name] = value;
    };
    return flag;
  };
  std::vector<Flag> own = {
      {"--output", "FILE", "The plan [default: BUNDLE/engines/<GPU>-trt<version>.plan]. Also -o.",
       [&o](const std::string& v) { o.output = v; }},
      {"--plugins", "FILE", "Our plugin library [default: the one that 'seqexport plugins build' made].",
       [&o](const std::string& v) { o.plugins = v; }},
      noted({"--no-plugins", nullptr, "Build a portable bundle's function bodies instead; needs no library.",
             [&o](const std::string&) { o.use_plugins = false; }}),
      noted({"--minShapes", "SHAPES", "Smallest shapes, as in input_ids:1x1,past_key_values.0.key:1x8x1x64.",
             [&o](const std::string& v) { o.shapes.min = shapes_from(v); }}),
      noted({"--optShapes", "SHAPES", "The shapes to be fastest at.",
             [&o](const std::string& v) { o.shapes.opt = shapes_from(v); }}),
      noted({"--maxShapes", "SHAPES", "Largest shapes. A shape sets its named axes in all inputs.",
             [&o](const std::string& v) { o.shapes.max = shapes_from(v); }}),
      {"--timingCacheFile", "FILE", "Timings of earlier builds; read if it is there, written after the build.",
       [&o](const std::string& v) { o.timing_cache = v; }},
      noted({"--builderOptimizationLevel", "N",
             "0 (fastest build) to 5 (fastest engine) [default: TensorRT's, 3].",
             [&o](const std::string& v) { o.optimization_level = level_from(v); }}),
      noted({"--memPoolSize", "POOLS", "Limits in MiB, as in workspace:1024,tacticSharedMem:48K.",
             [&o](const std::string& v) { o.memory_pools = pools_from(v); }}),
      noted({"--versionCompatible", nullptr, "Later versions of its major run it too.",
             [&o](const std::string&) { o.version_compatible = true; }}),
      noted({"--setPluginsToSerialize", nullptr, "Put the plugin library into the plan; needs --versionCompatible.",
             [&o](const std::string&) { o.serialize_plugins = true; }}),
      noted({"--tactic-sources", "NAMES", "Only these, as in CUBLAS,CUDNN, or none [default: TensorRT's own].",
             [&o](const std::string& v) {
               o.tactic_sources = v.empty() || v == "none" ? std::vector<std::string>() : split(v, ',');
             }}),
      noted({"--preview", "NAMES",
             "Preview features to turn on or off, as in +fasterDynamicShapes0805,-other; 8.6 has that one off.",
             [&o](const std::string& v) { o.preview = split(v, ','); }}),
      {"--verbose", nullptr, "All that TensorRT says.", [&o](const std::string&) { o.verbose = true; }},
  };
  return closed(std::move(own), o, "Versions of seqexport-build and of its TensorRT.");
}

}  // namespace

Options parse_options(const std::vector<std::string>& arguments) {
  Options options;
  parse_flags("seqexport-build", flags_of(options), arguments, options);
  if (options.help || options.version) return options;
  if (!options.use_plugins && !options.plugins.empty())
    throw UserError("--plugins and --no-plugins exclude each other");
  if (!options.use_plugins && options.serialize_plugins)
    throw UserError("--setPluginsToSerialize and --no-plugins exclude each other");
  if (options.serialize_plugins && !options.version_compatible)
    throw UserError(
        "--setPluginsToSerialize needs --versionCompatible: TensorRT serialises plugins into those plans only");
  return options;
}

std::string help_text() {
  Options unused;
  return "Usage: seqexport-build BUNDLE [flags]\n\n"
      "Build a TensorRT engine of a bundle, or of any ONNX file, and write it with a record of what it is.\n\n"
      "Examples:\n"
      "  seqexport-build mamba-130m-hf\n"
      "  seqexport-build my-llama --maxShapes=input_ids:1x1024 --timingCacheFile=timings.cache\n"
      "  seqexport-build my-mamba-portable --no-plugins -o my-mamba.plan\n"
      "  seqexport-build resnet.onnx --optShapes=image:1x3x224x224\n\n"
      "Flags (--flag=value or --flag value):\n" +
      help_of(flags_of(unused));
}

}  // namespace seqexport
