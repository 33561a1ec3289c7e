// The threads, blocks and clusters of a launch that are live, and how an error speaks of them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine.h"
#include "fiber.h"
#include "guarded.h"

namespace host_cuda {

enum class State { kReady, kYield, kWarp, kBlock, kCluster, kGrid, kDone };

struct Cluster {
  uint64_t phase = 0;  // how many barriers are over
  unsigned arrived = 0;
  Call call{};  // of the first to arrive
};

struct Thread : ThreadView {
  State state = State::kReady;
  Call call{};
  WarpOp op{};
  unsigned mask = 0, source = 0;
  uint64_t value = 0;
  Cluster* cluster = nullptr;
  uint64_t arrivals = 0;  // at the cluster's barriers
  bool must_wait = false;
  Fiber fiber;
};

struct Block {
  Block(const std::string& name, const Launch& shape)
      : shared(name, shape.shared_bytes),
        size(shape.block.x * shape.block.y * shape.block.z),
        threads(new Thread[size]) {}
  Guarded shared;
  unsigned size, running = 0;
  bool has_started = false;
  std::unique_ptr<Thread[]> threads;  // they never move: a ucontext_t points into itself
};

using Blocks = std::vector<std::unique_ptr<Block>>;

// Whether two threads wait for the same thing.
bool same(const Call& a, const Call& b);
bool meet(const Thread& a, const Thread& b);

std::string text(const uint3& at);
std::string name(const ThreadView& thread);  // "block (0, 0, 0) thread (5, 0, 0)"
std::string place(const Call& call);         // "__syncthreads (row.cuh:12)"
std::string state(const Thread& thread);     // "waits at ..."

// Who waits for ever, for whom, and what that one does instead: of the narrowest scope, where the
// cause is. `cluster`: blocks of a cluster.
std::string stuck(const Blocks& blocks, unsigned cluster);

}  // namespace host_cuda
