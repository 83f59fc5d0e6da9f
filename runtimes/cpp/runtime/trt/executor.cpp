#include "executor.h"

#include <tuple>

#include "error.h"

namespace seqexport::trt {

bool Sizes::operator<(const Sizes& other) const {
  return std::tie(batch, columns, room) < std::tie(other.batch, other.columns, other.room);
}

bool Sizes::operator==(const Sizes& other) const { return !(*this < other) && !(other < *this); }

Executor::Executor(nvinfer1::ICudaEngine& engine, const Bundle& bundle, Logger& logger, int device, size_t prefill,
                   size_t decode)
    : engine_(engine), bundle_(bundle), logger_(logger), device_(device), prefill_(prefill), decode_(decode),
      stream_(create_stream()), scratch_bytes_(scratch_bytes(engine)), scratch_(allocate_device(scratch_bytes_)) {}

void Executor::fail(const std::string& what) {
  const std::string cause = logger_.cause(), told = tensorrt_title() + " " + what + (cause.empty() ? "" : ": " + cause);
  logger_.forget();
  if (is_out_of_memory(cause)) throw NoMemory(told + "; close other sessions, or free the GPU");
  throw UserError(told);
}

Context Executor::new_context(size_t profile) {
  Context made{create_context(engine_, scratch_.get(), scratch_bytes_)};
  if (!made.context || !made.context->setOptimizationProfileAsync(int32_t(profile), stream()))
    fail("cannot make an execution context");
  return made;
}

Context& Executor::decoder(size_t batch, size_t room) {
  const Sizes sizes{batch, 1, room};
  const auto found = decoders_.find(sizes);
  if (found != decoders_.end()) return found->second;
  Context made = new_context(decode_);
  set_sizes(made, sizes);
  return decoders_.emplace(sizes, std::move(made)).first->second;
}

Context& Executor::prefiller(const Sizes& sizes) {
  if (!prefiller_.context) prefiller_ = new_context(prefill_);
  if (!(prefiller_.sizes == sizes)) set_sizes(prefiller_, sizes);
  return prefiller_;
}

void Executor::set_sizes(Context& context, const Sizes& sizes) {
  context.sizes = {};
  for (const Input& input : bundle_.inputs) {
    nvinfer1::Dims dims{};
    dims.nbDims = int32_t(input.shape.size());
    for (size_t i = 0; i < input.shape.size(); ++i) {
      const Axis& axis = input.shape[i];
      const size_t named = axis.name == "batch" ? sizes.batch : axis.name == "seq" ? sizes.columns : sizes.room;
      dims.d[i] = static_cast<std::decay_t<decltype(dims.d[0])>>(axis.fixed() ? axis.size : int64_t(named));
    }
    if (!context.context->setInputShape(input.name.c_str(), dims)) fail("refuses the shape of " + input.name);
  }
  context.sizes = sizes;
}

Feeds& Executor::prompt_feeds(const std::vector<Feed>& feeds, size_t batch, size_t width) {
  const size_t bytes = Feeds::bytes(feeds, batch, width);
  if (bytes > prompt_feeds_bytes_) {
    prompt_feeds_bytes_ = 0;
    prompt_feeds_memory_ = nullptr;
    prompt_feeds_host_ = nullptr;
    prompt_feeds_memory_ = allocate_device(bytes);
    prompt_feeds_host_ = allocate_pinned(bytes);
    prompt_feeds_bytes_ = bytes;
  }
  prompt_feeds_ = std::make_unique<Feeds>(feeds, batch, width, prompt_feeds_memory_.get(), prompt_feeds_host_.get());
  return *prompt_feeds_;
}

char* Executor::prompt_logits(size_t bytes) {
  if (bytes > prompt_logits_bytes_) {
    prompt_logits_bytes_ = 0;
    prompt_logits_ = nullptr;
    prompt_logits_ = allocate_device(bytes);
    prompt_logits_bytes_ = bytes;
  }
  return prompt_logits_.get();
}

void Executor::bind(Context& context, const std::string& name, char* address) {
  if (!context.context->setTensorAddress(name.c_str(), address)) fail("refuses the memory of " + name);
}

void Executor::enqueue(Context& context) {
  if (!context.context->enqueueV3(stream())) fail("failed");
}

}  // namespace seqexport::trt
