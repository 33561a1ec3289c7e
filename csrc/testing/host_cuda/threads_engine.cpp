// The engine for ThreadSanitizer: a thread of the system for each CUDA thread, and real barriers,
// which are all that orders their accesses to memory. Slow: for a few blocks of a few hundred
// threads. It reports no divergence, as the scheduler does; who waits too long ends the program.
// ThreadSanitizer remembers four accesses to each 8 bytes: what it reports is a race, but it may
// miss one.
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "engine.h"
#include "guarded.h"

// Of ThreadSanitizer's runtime. A shuffle or a vote makes lanes wait for one another, but on a GPU
// it orders no memory: only __syncwarp does. Between these calls no order is learned.
#ifdef __SANITIZE_THREAD__
#define HOST_CUDA_TSAN
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define HOST_CUDA_TSAN
#endif
#endif
#ifdef HOST_CUDA_TSAN
extern "C" {
void AnnotateIgnoreSyncBegin(const char* file, int line);
void AnnotateIgnoreSyncEnd(const char* file, int line);
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif

namespace host_cuda {

__thread const ThreadView* self = nullptr;
__thread uint3 threadIdx, blockIdx;
__thread dim3 blockDim, gridDim;

namespace {

constexpr std::chrono::seconds kPatience{120};

struct NoOrder {
#ifdef HOST_CUDA_TSAN
  NoOrder() {
    AnnotateIgnoreSyncBegin(__FILE__, __LINE__);
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  ~NoOrder() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
    AnnotateIgnoreSyncEnd(__FILE__, __LINE__);
  }
#endif
};

// Threads meet, each with a value; each leaves with all of them.
class Meeting {
 public:
  std::vector<uint64_t> meet(const Call& call, unsigned expected, unsigned place, uint64_t value) {
    std::unique_lock<std::mutex> lock(mutex_);
    const uint64_t round = round_;
    arriving_.resize(expected);
    arriving_[place] = value;
    if (++arrived_ == expected) {
      arrived_ = 0;
      ++round_;
      left_ = arriving_;
      everybody_.notify_all();
    } else if (!everybody_.wait_for(lock, kPatience, [&] { return round_ != round; })) {
      fail("waits too long at " + std::string(call.name) + " (" + call.file + ":" +
           std::to_string(call.line) + ")");
    }
    return left_;  // the next round is not over before all have left this one
  }

 private:
  std::mutex mutex_;
  std::condition_variable everybody_;
  std::vector<uint64_t> arriving_, left_;
  unsigned arrived_ = 0;
  uint64_t round_ = 0;
};

// A barrier whose arrival and wait are two steps.
class SplitBarrier {
 public:
  uint64_t arrive(unsigned expected) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const uint64_t round = round_;
    if (++arrived_ == expected) {
      arrived_ = 0;
      ++round_;
      everybody_.notify_all();
    }
    return round;
  }
  void wait(uint64_t round) {
    std::unique_lock<std::mutex> lock(mutex_);
    if (!everybody_.wait_for(lock, kPatience, [&] { return round_ != round; }))
      fail("waits too long at a cluster's barrier");
  }

 private:
  std::mutex mutex_;
  std::condition_variable everybody_;
  unsigned arrived_ = 0;
  uint64_t round_ = 0;
};

struct Warp {
  std::mutex mutex;
  std::map<unsigned, Meeting> meetings;  // of each mask
};

struct Block {
  Block(const Launch& shape, unsigned threads)
      : shared("shared memory", shape.shared_bytes), warps((threads + kWarp - 1) / kWarp) {}
  Guarded shared;
  Meeting meeting;
  std::vector<Warp> warps;
};

struct Running {
  const Launch* shape;
  unsigned threads;  // of a block
  std::vector<std::unique_ptr<Block>> blocks;
  std::vector<SplitBarrier> clusters;
  Meeting grid;
};

struct Thread : ThreadView {
  Running* running;
  unsigned slot;           // of its block among the live ones
  mutable uint64_t round;  // of the cluster's barrier it has arrived at
};

const Thread& current() { return *static_cast<const Thread*>(self); }

}  // namespace

int barrier(Scope scope, Call call, int predicate) {
  if (scope == Scope::kCluster) {
    cluster_arrive(call);
    cluster_wait(call);
    return 0;
  }
  const Thread& thread = current();
  Running& running = *thread.running;
  const bool is_block = scope == Scope::kBlock;
  Meeting& meeting = is_block ? running.blocks[thread.slot]->meeting : running.grid;
  const unsigned blocks = is_block ? 1 : static_cast<unsigned>(running.blocks.size());
  const unsigned place = thread.slot % blocks * running.threads + thread.thread_rank;
  int sum = 0;
  for (const uint64_t each :
       meeting.meet(call, blocks * running.threads, place, static_cast<uint64_t>(predicate)))
    sum += static_cast<int>(each);
  return sum;
}

void cluster_arrive(Call) {
  const Thread& thread = current();
  const unsigned cluster = thread.running->shape->cluster;
  SplitBarrier& barrier = thread.running->clusters[thread.slot / cluster];
  thread.round = barrier.arrive(cluster * thread.running->threads);
}

void cluster_wait(Call) {
  const Thread& thread = current();
  thread.running->clusters[thread.slot / thread.running->shape->cluster].wait(thread.round);
}

uint64_t warp_collective(WarpOp op, Call call, unsigned mask, uint64_t value, unsigned source) {
  std::unique_ptr<NoOrder> no_order;
  if (op != WarpOp::kSync) no_order = std::make_unique<NoOrder>();
  const unsigned lane = self->thread_rank % kWarp;
  const auto place = [mask](unsigned of) {
    return static_cast<unsigned>(__builtin_popcount(mask & ((1u << of) - 1)));
  };
  Warp& warp = current().running->blocks[current().slot]->warps[self->thread_rank / kWarp];
  Meeting* meeting;
  {
    const std::lock_guard<std::mutex> lock(warp.mutex);
    meeting = &warp.meetings[mask];
  }
  const std::vector<uint64_t> values =
      meeting->meet(call, static_cast<unsigned>(__builtin_popcount(mask)), place(lane), value);
  if (op == WarpOp::kExchange) return values[place(source)];
  uint64_t ballot = 0;
  for (unsigned i = 0; i < kWarp; ++i)
    if ((mask >> i & 1) != 0) ballot |= uint64_t{values[place(i)] != 0} << i;
  return ballot;
}

unsigned char* shared_of(unsigned cluster_rank) {
  const Thread& thread = current();
  const unsigned cluster = thread.running->shape->cluster;
  return thread.running->blocks[thread.slot / cluster * cluster + cluster_rank]->shared.data();
}

size_t shared_bytes() { return current().running->shape->shared_bytes; }

// Each fence comes after all earlier ones, through one variable.
void fence() {
  static unsigned fences = 0;
  __atomic_fetch_add(&fences, 1, __ATOMIC_ACQ_REL);
}

void yield() { std::this_thread::yield(); }

void fail(const std::string& what) {
  fprintf(stderr, "kernel: %s\n", what.c_str());
  std::_Exit(3);
}

void launch(const Launch& shape, void (*kernel)(const void*), const void* argument) {
  const dim3 grid = shape.grid, size = shape.block;
  const unsigned blocks = grid.x * grid.y * grid.z, count = size.x * size.y * size.z;
  const unsigned live = shape.cooperative ? blocks : shape.cluster;
  for (unsigned first = 0; first < blocks; first += live) {
    Running running{&shape, count, {}, std::vector<SplitBarrier>(live / shape.cluster), {}};
    for (unsigned slot = 0; slot < live; ++slot)
      running.blocks.push_back(std::make_unique<Block>(shape, count));
    std::vector<Thread> views(live * count);
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < live * count; ++i) {
      Thread& view = views[i];
      const unsigned slot = i / count, rank = i % count, block = first + slot;
      view.thread_idx = {rank % size.x, rank / size.x % size.y, rank / size.x / size.y};
      view.block_idx = {block % grid.x, block / grid.x % grid.y, block / grid.x / grid.y};
      view.block_dim = size;
      view.grid_dim = grid;
      view.thread_rank = rank;
      view.cluster_rank = slot % shape.cluster;
      view.cluster_blocks = shape.cluster;
      view.shared = running.blocks[slot]->shared.data();
      view.running = &running;
      view.slot = slot;
    }
    for (Thread& view : views) {
      threads.emplace_back([kernel, argument, &view] {
        turn_to(&view);
        kernel(argument);
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
}

}  // namespace host_cuda
