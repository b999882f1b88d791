// A stream with which no other has to wait, and what is captured from it.
#pragma once

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <memory>
#include <type_traits>

#include "adamant/types.hpp"

namespace adamant::test {

struct DestroyGraph {
  void operator()(cudaGraphExec_t graph) const { EXPECT_EQ(cudaGraphExecDestroy(graph), cudaSuccess); }
};
using Graph = std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, DestroyGraph>;

class OwnStream {
 public:
  explicit OwnStream(unsigned flags = cudaStreamNonBlocking) {
    EXPECT_EQ(cudaStreamCreateWithFlags(&stream_, flags), cudaSuccess);
  }
  ~OwnStream() { EXPECT_EQ(cudaStreamDestroy(stream_), cudaSuccess); }
  OwnStream(const OwnStream&) = delete;
  OwnStream& operator=(const OwnStream&) = delete;
  operator Stream() const { return stream_; }  // NOLINT(google-explicit-constructor)
  void wait() const { EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess); }
  void begin_capture() const { ASSERT_EQ(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeGlobal), cudaSuccess); }
  // What was captured, ready to be launched.
  Graph end_capture() const {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    EXPECT_EQ(cudaStreamEndCapture(stream_, &graph), cudaSuccess);
    EXPECT_EQ(cudaGraphInstantiateWithFlags(&executable, graph, 0), cudaSuccess);
    EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
    return Graph(executable);
  }
  void launch(const Graph& graph) const { EXPECT_EQ(cudaGraphLaunch(graph.get(), stream_), cudaSuccess); }
  bool is_capturing() const {
    cudaStreamCaptureStatus status{};
    EXPECT_EQ(cudaStreamIsCapturing(stream_, &status), cudaSuccess);
    return status == cudaStreamCaptureStatusActive;
  }

 private:
  cudaStream_t stream_ = nullptr;
};

}  // namespace adamant::test
