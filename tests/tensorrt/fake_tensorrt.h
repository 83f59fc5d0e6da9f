// Stands in for TensorRT around a plugin library: the symbols by which it is found, a logger, and symbolic dimensions.
#pragma once

#include <NvInferRuntime.h>

#include <deque>
#include <string>
#include <vector>

class Logger final : public nvinfer1::ILogger {
 public:
  void log(Severity, const char* message) noexcept override { last = message; }
  std::string last;
};

// An extent: -1 is not known yet.
class Dimension final : public nvinfer1::IDimensionExpr, public nvinfer1::apiv::VDimensionExpr {
 public:
  explicit Dimension(int64_t extent) : extent_(extent) { mImpl = this; }
  bool isConstant() const override { return extent_ >= 0; }
  int64_t getConstantValue() const override { return extent_; }
  bool isSizeTensor() const override { return false; }

 private:
  int64_t extent_;
};

// Makes constants alone: the shapes of our ops' outputs are those, and their inputs' extents.
class ExprBuilder final : public nvinfer1::IExprBuilder, public nvinfer1::apiv::VExprBuilder {
 public:
  ExprBuilder() { mImpl = this; }
  const nvinfer1::IDimensionExpr* constant(int64_t value) override { return &owned_.emplace_back(value); }
  const nvinfer1::IDimensionExpr* operation(nvinfer1::DimensionOperation, const nvinfer1::IDimensionExpr&,
                                            const nvinfer1::IDimensionExpr&) override {
    return nullptr;
  }
  const nvinfer1::IDimensionExpr* declareSizeTensor(int32_t, const nvinfer1::IDimensionExpr&,
                                                    const nvinfer1::IDimensionExpr&) override {
    return nullptr;
  }

 private:
  std::deque<Dimension> owned_;
};

class Dimensions {
 public:
  nvinfer1::DimsExprs make(const std::vector<int64_t>& shape) {
    nvinfer1::DimsExprs dims = {};
    dims.nbDims = int32_t(shape.size());
    for (size_t i = 0; i < shape.size(); ++i) dims.d[i] = &owned_.emplace_back(shape[i]);
    return dims;
  }

 private:
  std::deque<Dimension> owned_;
};
