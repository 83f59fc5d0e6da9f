#include "options.h"

#include <charconv>
#include <functional>

#include "error.h"

namespace seqexport {
namespace {

struct Flag {
  const char* name;
  const char* value;   // what its value is called in the help; null if it takes none
  bool shapes_engine;  // goes into the record
  const char* help;
  std::function<void(Options&, const std::string&)> set;
};

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts(1);
  for (char c : text)
    if (c == separator)
      parts.emplace_back();
    else
      parts.back() += c;
  return parts;
}

// Parses all of `text`, a number of at least `low`.
std::optional<int64_t> number(const std::string& text, int64_t low) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool whole = error == std::errc() && end == text.data() + text.size();
  return whole && value >= low ? std::optional(value) : std::nullopt;
}

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

// The flags in the order of the help.
const std::vector<Flag>& flags() {
  static const std::vector<Flag> all = {
      {"--output", "FILE", false, "The plan [default: BUNDLE/engines/<GPU>-trt<version>.plan]. Also -o.",
       [](Options& o, const std::string& v) { o.output = v; }},
      {"--plugins", "FILE", false, "Our plugin library [default: the one that 'seqexport plugins build' made].",
       [](Options& o, const std::string& v) { o.plugins = v; }},
      {"--no-plugins", nullptr, true, "Build a portable bundle's function bodies instead; needs no library.",
       [](Options& o, const std::string&) { o.use_plugins = false; }},
      {"--minShapes", "SHAPES", true, "Smallest shapes, as in input_ids:1x1,past_key_values.0.key:1x8x1x64.",
       [](Options& o, const std::string& v) { o.shapes.min = shapes_from(v); }},
      {"--optShapes", "SHAPES", true, "The shapes to be fastest at.",
       [](Options& o, const std::string& v) { o.shapes.opt = shapes_from(v); }},
      {"--maxShapes", "SHAPES", true, "Largest shapes. A shape sets its named axes in all inputs.",
       [](Options& o, const std::string& v) { o.shapes.max = shapes_from(v); }},
      {"--timingCacheFile", "FILE", false, "Timings of earlier builds; read if it is there, written after the build.",
       [](Options& o, const std::string& v) { o.timing_cache = v; }},
      {"--builderOptimizationLevel", "N", true, "0 (fastest build) to 5 (fastest engine) [default: TensorRT's, 3].",
       [](Options& o, const std::string& v) { o.optimization_level = level_from(v); }},
      {"--memPoolSize", "POOLS", true, "Limits in MiB, as in workspace:1024,tacticSharedMem:48K.",
       [](Options& o, const std::string& v) { o.memory_pools = pools_from(v); }},
      {"--versionCompatible", nullptr, true, "Later versions of its major run it too.",
       [](Options& o, const std::string&) { o.version_compatible = true; }},
      {"--setPluginsToSerialize", nullptr, true, "Put the plugin library into the plan; needs --versionCompatible.",
       [](Options& o, const std::string&) { o.serialize_plugins = true; }},
      {"--tactic-sources", "NAMES", true, "Only these, as in CUBLAS,CUDNN, or none [default: TensorRT's own].",
       [](Options& o, const std::string& v) {
         o.tactic_sources = v.empty() || v == "none" ? std::vector<std::string>() : split(v, ',');
       }},
      {"--preview", "NAMES", true,
       "Preview features to turn on or off, as in +fasterDynamicShapes0805,-other; 8.6 has that one off.",
       [](Options& o, const std::string& v) { o.preview = split(v, ','); }},
      {"--verbose", nullptr, false, "All that TensorRT says.",
       [](Options& o, const std::string&) { o.verbose = true; }},
      {"--version", nullptr, false, "Versions of seqexport-build and of its TensorRT.",
       [](Options& o, const std::string&) { o.version = true; }},
      {"--help", nullptr, false, "This text.", [](Options& o, const std::string&) { o.help = true; }},
  };
  return all;
}

const Flag& flag_named(const std::string& name) {
  for (const Flag& flag : flags())
    if (name == flag.name) return flag;
  throw UserError("unknown flag " + name + "; seqexport-build --help lists them");
}

void apply(Options& options, const Flag& flag, const std::string& value) {
  try {
    flag.set(options, value);
  } catch (const UserError& error) {
    throw UserError(flag.name + std::string(" ") + error.what());
  }
  if (flag.shapes_engine) options.given[flag.name] = value;
}

}  // namespace

Options parse_options(const std::vector<std::string>& arguments) {
  Options options;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& word = arguments[i];
    if (word.empty() || word[0] != '-') {
      if (!options.model.empty())
        throw UserError(word + ": one BUNDLE only, and " + options.model.string() + " is given");
      options.model = word;
      continue;
    }
    const size_t equals = word.find('=');
    std::string name = word.substr(0, equals);
    if (name == "-o") name = "--output";
    const Flag& flag = flag_named(name);
    if (!flag.value && equals != std::string::npos) throw UserError(name + " takes no value");
    if (!flag.value) {
      apply(options, flag, "");
    } else if (equals != std::string::npos) {
      apply(options, flag, word.substr(equals + 1));
    } else if (++i < arguments.size()) {
      apply(options, flag, arguments[i]);
    } else {
      throw UserError(name + " needs a value: " + name + "=" + flag.value);
    }
  }
  if (options.help || options.version) return options;
  if (options.model.empty()) throw UserError("no BUNDLE is given; seqexport-build --help has examples");
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
  std::string text =
      "Usage: seqexport-build BUNDLE [flags]\n\n"
      "Build a TensorRT engine of a bundle, or of any ONNX file, and write it with a record of what it is.\n\n"
      "Examples:\n"
      "  seqexport-build mamba-130m-hf\n"
      "  seqexport-build my-llama --maxShapes=input_ids:1x1024 --timingCacheFile=timings.cache\n"
      "  seqexport-build my-mamba-portable --no-plugins -o my-mamba.plan\n"
      "  seqexport-build resnet.onnx --optShapes=image:1x3x224x224\n\n"
      "Flags (--flag=value or --flag value):\n";
  for (const Flag& flag : flags()) {
    std::string left = std::string("  ") + flag.name + (flag.value ? std::string("=") + flag.value : "");
    text += left + (left.size() < 33 ? std::string(33 - left.size(), ' ') : " ") + flag.help + "\n";
  }
  return text;
}

}  // namespace seqexport
