// seqexport-build: a bundle, or any ONNX file, to a TensorRT engine, on a machine without Python.
#include <chrono>
#include <cstdio>
#include <exception>
#include <new>

#include "engine.h"
#include "error.h"
#include "external_data.h"
#include "files.h"
#include "options.h"
#include "plugins.h"
#include "publish.h"
#include "record.h"

namespace seqexport {
namespace {

namespace fs = std::filesystem;

void say(const std::string& line) { std::printf("%s\n", line.c_str()); }

// Throws UserError if the graph's ops can come neither from plugins nor from their bodies.
void check_target(const Bundle& bundle, bool use_plugins) {
  const std::string name = bundle.folder.string();
  if (bundle.target == "ort")
    throw UserError(name +
                    ": exported for target ort, whose com.microsoft ops TensorRT does not have; export it with "
                    "--target tensorrt");
  if (NV_TENSORRT_MAJOR < 10 && bundle.dtype == "bfloat16")
    throw UserError(name + ": bfloat16, which " + tensorrt_title() +
                    " does not have; export it with --dtype fp16 or fp32");
  if (bundle.ops.empty()) return;
  if (NV_TENSORRT_MAJOR < 10 && bundle.target == "portable")
    throw UserError(name + ": exported for target portable, and the parser of " + tensorrt_title() +
                    " reads no function bodies; export it with --target tensorrt");
  if (bundle.target == "tensorrt" && !use_plugins)
    throw UserError(name +
                    ": exported for target tensorrt, its ops have no bodies; leave out --no-plugins, or export it "
                    "with --target portable");
  if (bundle.target == "portable" && use_plugins)
    throw UserError(name +
                    ": exported for target portable, and TensorRT would take the ops' slow bodies instead of the "
                    "plugins; export it with --target tensorrt, or say --no-plugins");
  if (!use_plugins && bundle.ops.count("Experts"))  // runtimes/trt/graph.py says why
    throw UserError(name +
                    ": TensorRT cannot read the function body of Experts; export it with --target tensorrt, and leave "
                    "out --no-plugins");
}

// The bundle, also if its model.onnx is named; none for any other file.
std::optional<Bundle> opened(const fs::path& model) {
  if (!fs::exists(model))
    throw UserError(model.string() + ": no such file or folder; expected a bundle or an ONNX file");
  if (!fs::is_regular_file(model)) return open_bundle(model);
  const fs::path folder = fs::absolute(model).parent_path();
  const bool of_bundle = model.filename() == "model.onnx" && fs::exists(folder / "seqexport.json");
  return of_bundle ? std::optional(open_bundle(folder)) : std::nullopt;
}

fs::path plan_path(const Options& options, const Bundle* bundle, const Gpu& gpu) {
  const fs::path file = engine_name(gpu) + ".plan";
  if (!options.output.empty()) {
    if (options.output.extension() == ".json")
      throw UserError("--output " + options.output.string() + ": .json is the record's; name the plan .plan");
    return options.output;
  }
  if (bundle) return bundle->folder / "engines" / file;
  return options.bundle.parent_path() / (options.bundle.stem().string() + "-" + file.string());
}

// Found before a build that takes minutes: what cannot be written, and what must not be replaced.
void check_outputs(const fs::path& plan, const Model& model, const Options& options) {
  const fs::path record = record_path(plan);
  for (const fs::path& read : {model.file, fs::path(model.file.string() + ".data"), options.timing_cache}) {
    std::error_code ignored;  // where one is not there yet
    if (!read.empty() && (plan == read || fs::equivalent(plan, read, ignored)))
      throw UserError("--output " + plan.string() + ": is a file that the build itself needs; give another name");
  }
  if (fs::is_regular_file(record) && !plan_of_record(record))
    throw UserError("--output " + plan.string() + ": its record would replace " + record.string() +
                    ", which is no engine's; give another name");
  require_writable(plan);
  require_writable(record);
}

void build(const Options& options) {
  const auto start = std::chrono::steady_clock::now();
  const std::optional<Bundle> bundle = opened(options.bundle);
  const Bundle* const ours = bundle ? &*bundle : nullptr;
  if (ours) check_target(*ours, options.use_plugins);
  if (!ours)
    std::fprintf(stderr, "%s is no bundle of ours: plain TensorRT builds it as it is\n", options.bundle.c_str());

  std::optional<PluginLibrary> library;
  const bool wanted = ours ? !ours->ops.empty() : !options.plugins.empty();
  if (wanted && options.use_plugins) library = find_plugins(options.plugins);
  const Gpu gpu = current_gpu();
  const fs::path plan = plan_path(options, ours, gpu);
  const Model model = ours ? ours->model : Model{options.bundle, sha256_of(options.bundle), ""};
  if (!ours) check_inside(model.file);
  check_outputs(plan, model, options);

  Logger logger(options.verbose);
  PluginLibrary* const used = library ? &*library : nullptr;
  const Engine engine = build_engine(options, ours, used, logger);
  const nvinfer1::IHostMemory& content = *engine.plan;
  const std::string sha256 = sha256_of(content.data(), content.size());
  const fs::path written = publish(plan, content, sha256, !options.output.empty(), [&](const fs::path& file) {
    return record_text(file, sha256, gpu, used, model, engine, options);
  });
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  char summary[160];
  std::snprintf(summary, sizeof summary, "%.1f MB, for %s, built in %.1f s", double(content.size()) / 1e6,
                gpu.compute_capability.empty() ? "any GPU" : gpu.name.c_str(), took.count());
  say(written.string() + ": " + summary);
}

int run(const std::vector<std::string>& arguments) {
  const Options options = parse_options(arguments);
  if (options.help) {
    std::printf("%s", help_text().c_str());
  } else if (options.version) {
    say(std::string("seqexport-build ") + SEQEXPORT_VERSION + ", " + tensorrt_label());
  } else {
    build(options);
  }
  return 0;
}

}  // namespace
}  // namespace seqexport

int main(int count, char** words) try {
  return seqexport::run({words + 1, words + count});
} catch (const std::bad_alloc&) {
  std::fprintf(stderr, "error: out of memory; close other programs or give smaller --maxShapes\n");
  return 2;
} catch (const std::exception& error) {
  std::fprintf(stderr, "error: %s\n", seqexport::plain(error.what()).c_str());
  return 2;
}
