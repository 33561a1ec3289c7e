// The engine of the tests: one fibre for each CUDA thread, all on the calling thread, running
// ahead. A lane runs until it must wait for its warp before the next lane starts; a warp until it
// must wait for its block; a block for its cluster; a cluster for the grid. Turn by turn scheduling
// would keep the threads in step, as if there were barriers everywhere, and never show that one is
// missing.
//
// A thread that fails (fail, a fault, undefined behaviour) suspends for ever: its destructors do
// not run, and the launch throws.
#include <cstring>
#include <memory>
#include <numeric>
#include <vector>

#include "engine.h"
#include "faults.h"
#include "fiber.h"
#include "guarded.h"

namespace host_cuda {

__thread const ThreadView* self = nullptr;
__thread uint3 threadIdx, blockIdx;
__thread dim3 blockDim, gridDim;

namespace {

constexpr unsigned kMaxThreads = 1024;           // of a block
constexpr size_t kMaxSharedBytes = 227 * 1024;   // of a block, compute capability 9.0
constexpr unsigned kMaxCluster = 8;              // more are not portable
constexpr unsigned kMaxIdleRounds = 100 * 1000;  // in which a thread sleeps

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

std::string text(const uint3& at) {
  return "(" + std::to_string(at.x) + ", " + std::to_string(at.y) + ", " + std::to_string(at.z) +
         ")";
}

std::string name(const ThreadView& thread) {
  return "block " + text(thread.block_idx) + " thread " + text(thread.thread_idx);
}

std::string place(const Call& call) {
  const std::string file = call.file;
  return std::string(call.name) + " (" + file.substr(file.rfind('/') + 1) + ":" +
         std::to_string(call.line) + ")";
}

// One place has one name; but a header's may have a copy in each file that includes it.
bool same(const char* a, const char* b) { return a == b || strcmp(a, b) == 0; }

bool same(const Call& a, const Call& b) {
  return a.line == b.line && same(a.name, b.name) && same(a.file, b.file);
}

bool meet(const Thread& a, const Thread& b) {
  return a.state == b.state && same(a.call, b.call) && a.mask == b.mask;
}

std::string state(const Thread& thread) {
  switch (thread.state) {
    case State::kDone:
      return "has ended";
    case State::kReady:
    case State::kYield:
      return "runs";
    case State::kWarp: {
      char mask[16];
      snprintf(mask, sizeof mask, "0x%08x", thread.mask);
      return "waits at " + place(thread.call) + " with mask " + mask;
    }
    default:
      return "waits at " + place(thread.call);
  }
}

class Scheduler {
 public:
  Scheduler(const Launch& shape, void (*kernel)(const void*), const void* argument)
      : shape_(shape), kernel_(kernel), argument_(argument), random_(shape.order.seed) {}
  ~Scheduler() {
    stacks().reset();
    active = nullptr;
  }

  void run();
  [[noreturn]] void abandon(const std::string& what) {
    failure_ = what;
    suspend();
    __builtin_trap();
  }
  void suspend() { current_->fiber.suspend(); }
  Thread& current() { return *current_; }
  Block& block(unsigned cluster_rank) {
    return *live_[(current_block_ / shape_.cluster) * shape_.cluster + cluster_rank];
  }
  const Launch& shape() const { return shape_; }

  static __thread Scheduler* active;

 private:
  static Stacks& stacks() {
    static thread_local Stacks kept;
    return kept;
  }
  static void entry(void* scheduler);

  template <typename F>
  void in_order(unsigned count, F f);
  uint64_t draw();

  void start_block(unsigned slot, uint64_t index);
  void run_live();
  void run_cluster(unsigned first);
  void run_block(unsigned slot);
  void run_warp(Block& block, unsigned first);
  void run_thread(Block& block, Thread& thread);
  bool release_warp(Block& block, unsigned first);
  bool release(unsigned first_slot, unsigned slots, State waiting);
  bool release_cluster(unsigned first_slot);
  bool wake_yielded();
  std::string stuck() const;

  const Launch& shape_;
  void (*const kernel_)(const void*);
  const void* const argument_;
  uint64_t random_;
  std::vector<std::unique_ptr<Block>> live_;
  std::vector<Cluster> clusters_;
  Thread* current_ = nullptr;
  unsigned current_block_ = 0;  // its slot in live_
  std::string failure_;
};

__thread Scheduler* Scheduler::active = nullptr;

uint64_t Scheduler::draw() {  // splitmix64
  uint64_t z = random_ += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

template <typename F>
void Scheduler::in_order(unsigned count, F f) {
  switch (shape_.order.kind) {
    case Order::kAscending:
      for (unsigned i = 0; i < count; ++i) f(i);
      return;
    case Order::kDescending:
      for (unsigned i = count; i > 0; --i) f(i - 1);
      return;
    case Order::kShuffled:  // anew each time
      std::vector<unsigned> order(count);
      std::iota(order.begin(), order.end(), 0u);
      for (unsigned i = count; i > 1; --i) std::swap(order[i - 1], order[draw() % i]);
      for (const unsigned i : order) f(i);
  }
}

void Scheduler::run() {
  active = this;
  const unsigned blocks = shape_.grid.x * shape_.grid.y * shape_.grid.z;
  const unsigned live = shape_.cooperative ? blocks : shape_.cluster;
  for (unsigned slot = 0; slot < live; ++slot) {
    std::string name = "shared memory";
    if (shape_.cluster > 1)
      name += " of its cluster's block " + std::to_string(slot % shape_.cluster);
    live_.push_back(std::make_unique<Block>(name, shape_));
  }
  clusters_.resize(live / shape_.cluster);
  const FaultHandlers handlers;
  in_order(blocks / live, [&](unsigned set) {
    for (unsigned slot = 0; slot < live; ++slot) start_block(slot, set * live + slot);
    run_live();
  });
}

void Scheduler::start_block(unsigned slot, uint64_t index) {
  Block& block = *live_[slot];
  const dim3 grid = shape_.grid, size = shape_.block;
  block.shared.allow(true);
  block.shared.poison();
  // A block of a cluster that has not started has no shared memory yet.
  if (shape_.cluster > 1) block.shared.allow(false);
  block.has_started = false;
  block.running = block.size;
  Cluster& cluster = clusters_[slot / shape_.cluster];
  cluster = {};
  for (unsigned i = 0; i < block.size; ++i) {
    Thread& thread = block.threads[i];
    thread.thread_idx = {i % size.x, i / size.x % size.y, i / size.x / size.y};
    thread.block_idx = {static_cast<unsigned>(index % grid.x),
                        static_cast<unsigned>(index / grid.x % grid.y),
                        static_cast<unsigned>(index / grid.x / grid.y)};
    thread.block_dim = size;
    thread.grid_dim = grid;
    thread.thread_rank = i;
    thread.cluster_rank = slot % shape_.cluster;
    thread.cluster_blocks = shape_.cluster;
    thread.shared = block.shared.data();
    thread.state = State::kReady;
    thread.cluster = &cluster;
    thread.arrivals = 0;
    thread.must_wait = false;
    thread.fiber = Fiber();
  }
}

void Scheduler::run_live() {
  const unsigned live = static_cast<unsigned>(live_.size());
  for (unsigned idle = 0;;) {
    in_order(live / shape_.cluster, [&](unsigned i) { run_cluster(i * shape_.cluster); });
    if (release(0, live, State::kGrid)) continue;
    bool running = false;
    for (const auto& block : live_) running |= block->running > 0;
    if (!running) return;
    if (!wake_yielded() || ++idle > kMaxIdleRounds) throw Error(stuck());
  }
}

void Scheduler::run_cluster(unsigned first) {
  do {
    in_order(shape_.cluster, [&](unsigned i) { run_block(first + i); });
  } while (release_cluster(first));
}

void Scheduler::run_block(unsigned slot) {
  Block& block = *live_[slot];
  if (block.running == 0) return;
  current_block_ = slot;
  if (!block.has_started && shape_.cluster > 1) block.shared.allow(true);
  block.has_started = true;
  do {
    in_order((block.size + kWarp - 1) / kWarp, [&](unsigned i) { run_warp(block, i * kWarp); });
  } while (release(slot, 1, State::kBlock));
  if (block.running > 0) return;
  const std::string damage = block.shared.damage();
  if (!damage.empty()) throw Error("block " + text(block.threads[0].block_idx) + ": " + damage);
  if (shape_.cluster > 1) block.shared.allow(false);  // another block may still look at it
}

void Scheduler::run_warp(Block& block, unsigned first) {
  const unsigned lanes = std::min(kWarp, block.size - first);
  do {
    in_order(lanes, [&](unsigned lane) {
      Thread& thread = block.threads[first + lane];
      if (thread.state == State::kReady) run_thread(block, thread);
    });
  } while (release_warp(block, first));
}

void Scheduler::run_thread(Block& block, Thread& thread) {
  if (thread.fiber.stack() == nullptr) thread.fiber.start(&entry, this, stacks().take());
  current_ = &thread;
  turn_to(&thread);
  thread.fiber.resume();
  turn_to(nullptr);
  if (thread.fiber.has_overflown()) throw Error(name(thread) + ": its stack has overflown");
  if (!failure_.empty()) throw Error(name(thread) + ": " + failure_);
  if (thread.state == State::kDone) {
    stacks().give(thread.fiber.stack());
    --block.running;
  }
}

void Scheduler::entry(void* scheduler) {
  auto* const that = static_cast<Scheduler*>(scheduler);
  try {
    that->kernel_(that->argument_);
  } catch (const std::exception& error) {
    that->failure_ = error.what();
  }
  that->current_->state = State::kDone;
  that->suspend();
}

// Lets those lanes go whose whole mask has come to the same call.
bool Scheduler::release_warp(Block& block, unsigned first) {
  const unsigned lanes = std::min(kWarp, block.size - first);
  Thread* const warp = &block.threads[first];
  bool released = false;
  for (unsigned lane = 0; lane < lanes; ++lane) {
    const Thread& leader = warp[lane];
    if (leader.state != State::kWarp) continue;
    if ((leader.mask >> lane & 1) == 0)
      throw Error(name(leader) + " " + state(leader) + ", which leaves out its own lane");
    bool complete = true;
    uint64_t values[kWarp], ballot = 0;
    for (unsigned i = 0; i < kWarp && complete; ++i) {
      if ((leader.mask >> i & 1) == 0) continue;
      complete = i < lanes && meet(leader, warp[i]);
      if (!complete) break;
      values[i] = warp[i].value;
      ballot |= uint64_t{values[i] != 0} << i;
    }
    if (!complete) continue;
    const unsigned mask = leader.mask;
    for (unsigned i = lane; i < lanes; ++i) {
      if ((mask >> i & 1) == 0) continue;
      Thread& thread = warp[i];
      if (thread.op == WarpOp::kExchange && (mask >> thread.source & 1) == 0)
        throw Error(name(thread) + " " + state(thread) + ", and reads lane " +
                    std::to_string(thread.source) + ", which is not in it");
      thread.value = thread.op == WarpOp::kBallot ? ballot : values[thread.source];
      thread.state = State::kReady;
    }
    released = true;
  }
  return released;
}

// Lets a barrier's threads go when all threads of the blocks have come to it. An ended thread
// comes to none: CUDA asks that of every thread of the block.
bool Scheduler::release(unsigned first_slot, unsigned slots, State waiting) {
  const Thread& leader = live_[first_slot]->threads[0];
  if (leader.state != waiting) return false;
  uint64_t sum = 0;
  for (unsigned slot = first_slot; slot < first_slot + slots; ++slot) {
    const Block& block = *live_[slot];
    for (unsigned i = 0; i < block.size; ++i) {
      if (!meet(leader, block.threads[i])) return false;
      sum += block.threads[i].value;
    }
  }
  for (unsigned slot = first_slot; slot < first_slot + slots; ++slot) {
    const Block& block = *live_[slot];
    for (unsigned i = 0; i < block.size; ++i) {
      block.threads[i].value = sum;
      block.threads[i].state = State::kReady;
    }
  }
  return true;
}

// Lets those go whose cluster barrier is over: all its threads have arrived.
bool Scheduler::release_cluster(unsigned first_slot) {
  bool released = false;
  for (unsigned slot = first_slot; slot < first_slot + shape_.cluster; ++slot) {
    for (unsigned i = 0; i < live_[slot]->size; ++i) {
      Thread& thread = live_[slot]->threads[i];
      if (thread.state != State::kCluster || thread.arrivals > thread.cluster->phase) continue;
      thread.state = State::kReady;
      released = true;
    }
  }
  return released;
}

bool Scheduler::wake_yielded() {
  bool woken = false;
  for (const auto& block : live_) {
    for (unsigned i = 0; i < block->size; ++i) {
      if (block->threads[i].state != State::kYield) continue;
      block->threads[i].state = State::kReady;
      woken = true;
    }
  }
  return woken;
}

// Who waits, for whom, and what that one does instead: of the narrowest scope, where the cause is.
std::string Scheduler::stuck() const {
  for (const State scope : {State::kWarp, State::kBlock, State::kCluster, State::kGrid}) {
    for (unsigned slot = 0; slot < live_.size(); ++slot) {
      const Block& block = *live_[slot];
      for (unsigned i = 0; i < block.size; ++i) {
        const Thread& thread = block.threads[i];
        if (thread.state != scope) continue;
        unsigned first = slot, slots = 1;
        if (scope == State::kGrid) first = 0, slots = static_cast<unsigned>(live_.size());
        if (scope == State::kCluster)
          first = slot / shape_.cluster * shape_.cluster, slots = shape_.cluster;
        for (unsigned other_slot = first; other_slot < first + slots; ++other_slot) {
          const Block& other = *live_[other_slot];
          for (unsigned j = 0; j < other.size; ++j) {
            if (scope == State::kWarp &&
                (j / kWarp != i / kWarp || (thread.mask >> j % kWarp & 1) == 0))
              continue;
            if (scope == State::kCluster ? other.threads[j].arrivals < thread.arrivals
                                         : !meet(thread, other.threads[j]))
              return name(thread) + " " + state(thread) + ", but " + name(other.threads[j]) + " " +
                     state(other.threads[j]);
          }
        }
        if (scope == State::kWarp)
          return name(thread) + " " + state(thread) + ", which names lanes that do not exist";
      }
    }
  }
  return "a thread waits in __nanosleep for what no other thread does";
}

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
