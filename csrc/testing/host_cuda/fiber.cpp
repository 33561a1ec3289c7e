#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstring>
#include <new>

namespace host_cuda {
namespace {

constexpr size_t kStackBytes = 64 * 1024;
constexpr size_t kSlabStacks = 64;
constexpr size_t kKeptSlabs = 16;  // a block of 1024 threads
// A stack's low end, where it overflows: never accessible in the slabs that are kept. The others,
// of large cooperative grids, have only the canary above it, since a guard takes two of the 65,530
// mappings that Linux allows.
constexpr size_t kGuardBytes = 4096;
constexpr uint64_t kCanary = 0x9e3779b97f4a7c15u;

__thread Fiber* starting;

}  // namespace

void begin_fiber() {
  const Fiber* const fiber = starting;
  fiber->entry_(fiber->argument_);
  __builtin_trap();
}

#ifdef HOST_CUDA_UCONTEXT

static void switch_context(Context& from, Context& to) { swapcontext(&from, &to); }

static void prepare_context(Context& context, unsigned char* stack) {
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = kStackBytes;
  context.uc_link = nullptr;
  makecontext(&context, begin_fiber, 0);
}

#else

// System V x86-64: a call keeps rbx, rbp, r12 to r15 and the stack pointer.
extern "C" void host_cuda_switch(Context* from, Context to);
asm(R"(
.text
.hidden host_cuda_switch
.globl host_cuda_switch
.type host_cuda_switch, @function
host_cuda_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size host_cuda_switch, . - host_cuda_switch
)");

static void switch_context(Context& from, Context& to) { host_cuda_switch(&from, to); }

// Six registers, the function to return to, and a return address of 0 above it: at the entry of a
// function the stack pointer is 8 below a multiple of 16.
static void prepare_context(Context& context, unsigned char* stack) {
  auto* top = reinterpret_cast<void**>(stack + kStackBytes) - 8;
  memset(top, 0, 8 * sizeof(void*));
  top[6] = reinterpret_cast<void*>(&begin_fiber);
  context = top;
}

#endif

void Fiber::start(void (*entry)(void*), void* argument, unsigned char* stack) {
  entry_ = entry;
  argument_ = argument;
  stack_ = stack;
  memcpy(stack + kGuardBytes, &kCanary, sizeof kCanary);
  prepare_context(inside_, stack);
}

void Fiber::resume() {
  starting = this;
  switch_context(outside_, inside_);
}

void Fiber::suspend() { switch_context(inside_, outside_); }

bool Fiber::has_overflown() const {
  return memcmp(stack_ + kGuardBytes, &kCanary, sizeof kCanary) != 0;
}

unsigned char* Stacks::take() {
  if (free_.empty()) {
    void* slab = mmap(nullptr, kSlabStacks * kStackBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (slab == MAP_FAILED) throw std::bad_alloc();
    slabs_.push_back(static_cast<unsigned char*>(slab));
    for (size_t i = kSlabStacks; i > 0; --i) {
      free_.push_back(slabs_.back() + (i - 1) * kStackBytes);
      // Elsewhere than on Linux pages may be larger; then the canary is alone.
      if (slabs_.size() <= kKeptSlabs) mprotect(free_.back(), kGuardBytes, PROT_NONE);
    }
  }
  unsigned char* const stack = free_.back();
  free_.pop_back();
  return stack;
}

void Stacks::reset() {
  for (; slabs_.size() > kKeptSlabs; slabs_.pop_back())
    munmap(slabs_.back(), kSlabStacks * kStackBytes);
  free_.clear();
  for (unsigned char* const slab : slabs_)
    for (size_t i = kSlabStacks; i > 0; --i) free_.push_back(slab + (i - 1) * kStackBytes);
}

Stacks::~Stacks() {
  for (unsigned char* const slab : slabs_) munmap(slab, kSlabStacks * kStackBytes);
}

}  // namespace host_cuda
