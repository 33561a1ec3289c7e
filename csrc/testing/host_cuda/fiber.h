// Threads of execution that run until they say so, on one thread of the system.
#pragma once

#include <cstddef>
#include <vector>

// HOST_CUDA_UCONTEXT asks for the portable form where the assembly would do.
#if !defined(__x86_64__) || !defined(__ELF__)
#define HOST_CUDA_UCONTEXT
#endif
#ifdef HOST_CUDA_UCONTEXT
#include <ucontext.h>
#endif

namespace host_cuda {

#ifdef HOST_CUDA_UCONTEXT
using Context = ucontext_t;
#else
using Context = void*;  // the stack pointer; the registers lie on the stack
#endif

class Fiber {
 public:
  // Runs `entry(argument)` on a stack of Stacks' when first resumed. It ends by suspending.
  void start(void (*entry)(void*), void* argument, unsigned char* stack);
  void resume();   // from outside any fibre, until it suspends
  void suspend();  // from inside this one
  unsigned char* stack() const { return stack_; }
  bool has_overflown() const;

 private:
  Context inside_, outside_;
  void (*entry_)(void*) = nullptr;
  void* argument_ = nullptr;
  unsigned char* stack_ = nullptr;
  friend void begin_fiber();
};

// Stacks, kept for the next launch. Pages that nobody touches take no memory.
class Stacks {
 public:
  Stacks() = default;
  ~Stacks();
  Stacks(const Stacks&) = delete;
  Stacks& operator=(const Stacks&) = delete;
  unsigned char* take();
  void give(unsigned char* stack) { free_.push_back(stack); }
  void reset();  // takes all back, of fibres that will not be resumed too; keeps some

 private:
  std::vector<unsigned char*> slabs_, free_;
};

}  // namespace host_cuda
