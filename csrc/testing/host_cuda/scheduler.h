// The engine of the tests: one fibre for each CUDA thread, all on the calling thread, running
// ahead. A lane runs until it must wait for its warp before the next lane starts; a warp until it
// must wait for its block; a block for its cluster; a cluster for the grid. Turn by turn scheduling
// would keep the threads in step, as if there were barriers everywhere, and never show that one is
// missing.
//
// A thread that fails (fail, a fault, undefined behaviour) suspends for ever: its destructors do
// not run, and the launch throws.
#pragma once

#include <string>
#include <vector>

#include "live.h"

namespace host_cuda {

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

  const Launch& shape_;
  void (*const kernel_)(const void*);
  const void* const argument_;
  uint64_t random_;
  Blocks live_;
  std::vector<Cluster> clusters_;
  Thread* current_ = nullptr;
  unsigned current_block_ = 0;  // its slot in live_
  std::string failure_;
};

}  // namespace host_cuda
