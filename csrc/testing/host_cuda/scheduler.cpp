#include "scheduler.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "faults.h"

namespace host_cuda {

__thread Scheduler* Scheduler::active = nullptr;

// In which a thread sleeps, and then sleeps again.
static constexpr unsigned kMaxIdleRounds = 100 * 1000;

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
    if (!wake_yielded() || ++idle > kMaxIdleRounds) throw Error(stuck(live_, shape_.cluster));
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

}  // namespace host_cuda
