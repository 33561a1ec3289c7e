// Faults of kernel code, made errors that name the thread.
#pragma once

#include <csignal>
#include <memory>

namespace host_cuda {

// While one lives, a kernel's access to a page it may not touch, and a trap, end in fail().
class FaultHandlers {
 public:
  FaultHandlers();
  ~FaultHandlers();
  FaultHandlers(const FaultHandlers&) = delete;
  FaultHandlers& operator=(const FaultHandlers&) = delete;

 private:
  static constexpr int kSignals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};
  struct sigaction previous_[4];
  stack_t previous_stack_;
  std::unique_ptr<char[]> stack_;  // a handler's own: a fault may be the fibre's stack's
};

}  // namespace host_cuda
