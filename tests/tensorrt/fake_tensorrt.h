// Stands in for TensorRT around a plugin library: the symbols by which it is found, a logger, a plugin registry, and
// symbolic dimensions.
#pragma once

#include <NvInferRuntime.h>

#include <algorithm>
#include <deque>
#include <string>
#include <vector>

#pragma GCC diagnostic ignored "-Wdeprecated-declarations"  // which the older interface is, in its own headers too

#if NV_TENSORRT_MAJOR > 8
using CreatorInterface = nvinfer1::IPluginCreatorInterface;
using Extent = int64_t;
#else
using CreatorInterface = nvinfer1::IPluginCreator;
using Extent = int32_t;
#endif

class Logger final : public nvinfer1::ILogger {
 public:
  void log(Severity, const char* message) noexcept override { said += message, said += '\n'; }
  std::string said;
};

// Takes whatever it is given.
class Registry final : public nvinfer1::IPluginRegistry {
 public:
  std::vector<CreatorInterface*> creators;

  bool registerCreator(CreatorInterface& creator, const char*) noexcept override {
    creators.push_back(&creator);
    return true;
  }
  bool deregisterCreator(const CreatorInterface& creator) noexcept override {
    creators.erase(std::remove(creators.begin(), creators.end(), &creator), creators.end());
    return true;
  }
  void setErrorRecorder(nvinfer1::IErrorRecorder*) noexcept override {}
  nvinfer1::IErrorRecorder* getErrorRecorder() const noexcept override { return nullptr; }

#if NV_TENSORRT_MAJOR > 8
  CreatorInterface* const* getAllCreators(int32_t* count) const noexcept override { return list(count); }
  CreatorInterface* getCreator(const char*, const char*, const char*) noexcept override { return nullptr; }
  // Of some version 10 and all later ones, so that it may override nothing.
  CreatorInterface* const* getAllCreatorsRecursive(int32_t* count) noexcept { return list(count); }
  nvinfer1::IPluginResource* acquirePluginResource(const char*, nvinfer1::IPluginResource*) noexcept override {
    return nullptr;
  }
  int32_t releasePluginResource(const char*) noexcept override { return 0; }
#else
  CreatorInterface* const* getPluginCreatorList(int32_t* count) const noexcept override { return list(count); }
  CreatorInterface* getPluginCreator(const char*, const char*, const char*) noexcept override { return nullptr; }
#endif
#if NV_TENSORRT_MAJOR > 8 && NV_TENSORRT_MAJOR < 11
  bool registerCreator(nvinfer1::IPluginCreator&, const char*) noexcept override { return false; }
  bool deregisterCreator(const nvinfer1::IPluginCreator&) noexcept override { return false; }
  nvinfer1::IPluginCreator* const* getPluginCreatorList(int32_t*) const noexcept override { return nullptr; }
  nvinfer1::IPluginCreator* getPluginCreator(const char*, const char*, const char*) noexcept override {
    return nullptr;
  }
#endif
#if NV_TENSORRT_MAJOR > 8 || NV_TENSORRT_MINOR >= 6
  bool isParentSearchEnabled() const override { return false; }
  void setParentSearchEnabled(bool) override {}
  PluginLibraryHandle loadLibrary(const char*) noexcept override { return nullptr; }
  void deregisterLibrary(PluginLibraryHandle) noexcept override {}
#endif

 private:
  CreatorInterface* const* list(int32_t* count) const {
    *count = int32_t(creators.size());
    return creators.data();
  }
};

// An extent: -1 is not known yet.
class Dimension final : public nvinfer1::IDimensionExpr, public nvinfer1::apiv::VDimensionExpr {
 public:
  explicit Dimension(Extent extent) : extent_(extent) { mImpl = this; }
  bool isConstant() const override { return extent_ >= 0; }
  Extent getConstantValue() const override { return extent_; }
#if NV_TENSORRT_MAJOR > 8
  bool isSizeTensor() const override { return false; }
#endif

 private:
  Extent extent_;
};

// Makes constants alone: the shapes of our ops' outputs are those, and their inputs' extents.
class ExprBuilder final : public nvinfer1::IExprBuilder, public nvinfer1::apiv::VExprBuilder {
 public:
  ExprBuilder() { mImpl = this; }
  const nvinfer1::IDimensionExpr* constant(Extent value) override { return &owned_.emplace_back(value); }
  const nvinfer1::IDimensionExpr* operation(nvinfer1::DimensionOperation, const nvinfer1::IDimensionExpr&,
                                            const nvinfer1::IDimensionExpr&) override {
    return nullptr;
  }
#if NV_TENSORRT_MAJOR > 8
  const nvinfer1::IDimensionExpr* declareSizeTensor(int32_t, const nvinfer1::IDimensionExpr&,
                                                    const nvinfer1::IDimensionExpr&) override {
    return nullptr;
  }
#endif

 private:
  std::deque<Dimension> owned_;
};

class Dimensions {
 public:
  nvinfer1::DimsExprs make(const nvinfer1::Dims& shape) {
    nvinfer1::DimsExprs dims = {};
    dims.nbDims = shape.nbDims;
    for (int i = 0; i < shape.nbDims; ++i) dims.d[i] = &owned_.emplace_back(shape.d[i]);
    return dims;
  }

 private:
  std::deque<Dimension> owned_;
};
