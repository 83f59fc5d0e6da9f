// A bundle's engine in TensorRT.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backend.h"
#include "executor.h"
#include "plan.h"

namespace seqexport::trt {

struct Range {
  size_t low, high;
};

class TrtEngine final : public Engine {
 public:
  // Throws UserError: no GPU, or the engine or its plugin library is missing, damaged, or of another GPU or version.
  TrtEngine(const Bundle& bundle, const EngineOptions& options);
  ~TrtEngine() override;

  std::unique_ptr<seqexport::States> states(size_t batch, size_t capacity) const override;
  size_t longest_cache() const override { return rooms_.high ? rooms_.high : Engine::longest_cache(); }
  size_t longest_call() const override { return widths_.high; }
  std::string name() const override { return "trt"; }
  std::string description() const override;

  Executor& executor() const { return *executor_; }
  // The inputs that a call fills, as the engine has them.
  const std::vector<Feed>& feeds() const { return feeds_; }
  // A cache's past and present are one memory.
  bool caches_in_place() const { return caches_in_place_; }
  // What a call may have: sequences, columns, and rows of a cache; the last is 0 where there is none.
  Range batches() const { return batches_; }
  Range widths() const { return widths_; }
  Range rooms() const { return rooms_; }

 private:
  void load(const Plan& plan);
  void check_interface(const Record& record) const;
  std::vector<Feed> feeds_of() const;
  Range limits(const std::string& input, const std::string& axis, size_t profile) const;

  int device_;
  std::string description_;
  bool caches_in_place_ = false;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::vector<Feed> feeds_;
  Range batches_{}, widths_{}, rooms_{};
  std::unique_ptr<Executor> executor_;
};

}  // namespace seqexport::trt
