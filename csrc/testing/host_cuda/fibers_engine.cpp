// engine.h over fibres.
#include "scheduler.h"

namespace host_cuda {

__thread const ThreadView* self = nullptr;
__thread uint3 threadIdx, blockIdx;
__thread dim3 blockDim, gridDim;

namespace {

constexpr unsigned kMaxThreads = 1024;          // of a block
constexpr size_t kMaxSharedBytes = 227 * 1024;  // of a block, compute capability 9.0
constexpr unsigned kMaxCluster = 8;             // more are not portable

void wait(State state, const Call& call) {
  Thread& thread = Scheduler::active->current();
  thread.state = state;
  thread.call = call;
  Scheduler::active->suspend();
}

void check(const Launch& shape) {
  const auto refuse = [](const std::string& what) { throw Error("launch: " + what); };
  const dim3 block = shape.block, grid = shape.grid;
  if (block.x == 0 || block.y == 0 || block.z == 0 || block.x * block.y * block.z > kMaxThreads)
    refuse("a block must have 1 to 1024 threads");
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) refuse("a grid must have blocks");
  if (shape.shared_bytes > kMaxSharedBytes)
    refuse("shared memory must be at most 227 KiB, got " + std::to_string(shape.shared_bytes));
  if (shape.cluster == 0 || shape.cluster > kMaxCluster || grid.x % shape.cluster != 0)
    refuse("a cluster must have 1 to 8 blocks and divide the grid's width");
}

}  // namespace

int barrier(Scope scope, Call call, int predicate) {
  Thread& thread = Scheduler::active->current();
  thread.value = static_cast<uint64_t>(predicate);
  thread.mask = 0;
  if (scope == Scope::kGrid && !Scheduler::active->shape().cooperative)
    fail(place(call) + " in a launch that is not cooperative");
  if (scope == Scope::kCluster) {
    cluster_arrive(call);
    cluster_wait(call);
    return 0;
  }
  wait(scope == Scope::kBlock ? State::kBlock : State::kGrid, call);
  return static_cast<int>(thread.value);
}

void cluster_arrive(Call call) {
  Thread& thread = Scheduler::active->current();
  Cluster& cluster = *thread.cluster;
  if (thread.must_wait) fail("arrives at " + place(call) + " and has not waited since it did");
  if (cluster.arrived == 0)
    cluster.call = call;
  else if (!same(cluster.call, call))
    fail("arrives at " + place(call) + ", but another of its cluster at " + place(cluster.call));
  thread.must_wait = true;
  ++thread.arrivals;
  const dim3 size = thread.block_dim;
  if (++cluster.arrived < thread.cluster_blocks * size.x * size.y * size.z) return;
  cluster.arrived = 0;
  ++cluster.phase;
}

void cluster_wait(Call call) {
  Thread& thread = Scheduler::active->current();
  if (!thread.must_wait) fail("waits at " + place(call) + " and has not arrived");
  thread.must_wait = false;
  thread.mask = 0;
  if (thread.arrivals > thread.cluster->phase) wait(State::kCluster, call);
}

uint64_t warp_collective(WarpOp op, Call call, unsigned mask, uint64_t value, unsigned source) {
  Thread& thread = Scheduler::active->current();
  thread.op = op;
  thread.mask = mask;
  thread.value = value;
  thread.source = op == WarpOp::kExchange ? source : thread.thread_rank % kWarp;
  wait(State::kWarp, call);
  return thread.value;
}

unsigned char* shared_of(unsigned cluster_rank) {
  if (cluster_rank >= self->cluster_blocks) fail("a rank that is not in the cluster");
  return Scheduler::active->block(cluster_rank).shared.data();
}

size_t shared_bytes() { return Scheduler::active->shape().shared_bytes; }

void fence() {}

void yield() { wait(State::kYield, {}); }

void fail(const std::string& what) {
  if (self == nullptr) throw Error(what);
  Scheduler::active->abandon(what);
}

void launch(const Launch& shape, void (*kernel)(const void*), const void* argument) {
  check(shape);
  if (Scheduler::active != nullptr) throw Error("launch: a kernel cannot launch another");
  Scheduler(shape, kernel, argument).run();
}

}  // namespace host_cuda
