#include "faults.h"

#include <ucontext.h>

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "engine.h"
#include "guarded.h"

namespace host_cuda {
namespace {

constexpr size_t kHandlerStackBytes = 64 * 1024;

std::string access(const siginfo_t* info, const void* context) {
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  std::string kind = "an access to ";
  uintptr_t stack = 0;
#if defined(__linux__) && defined(__x86_64__)
  const auto& machine = static_cast<const ucontext_t*>(context)->uc_mcontext;
  kind = machine.gregs[REG_ERR] & 2 ? "a write to " : "a read of ";
  stack = static_cast<uintptr_t>(machine.gregs[REG_RSP]);
#elif defined(__linux__) && defined(__aarch64__)
  stack = static_cast<uintptr_t>(static_cast<const ucontext_t*>(context)->uc_mcontext.sp);
#else
  (void)context;
#endif
  constexpr uintptr_t kNear = 8192;
  if (address + kNear > stack && address < stack + kNear) return "its stack has overflown";
  const std::string where = Guarded::describe(info->si_addr);
  if (!where.empty()) return kind + where;
  char text[64];
  snprintf(text, sizeof text, "0x%" PRIxPTR ", which is in no array", address);
  return kind + text;
}

void handle(int signal, siginfo_t* info, void* context) {
  if (self == nullptr) {  // not a kernel's: as if nobody had asked
    std::signal(signal, SIG_DFL);
    return;
  }
  if (signal == SIGSEGV || signal == SIGBUS) fail(access(info, context));
  fail(signal == SIGFPE ? "an integer division by zero" : "a trap");
}

}  // namespace

FaultHandlers::FaultHandlers() : stack_(new char[kHandlerStackBytes]) {
  stack_t stack{};
  stack.ss_sp = stack_.get();
  stack.ss_size = kHandlerStackBytes;
  sigaltstack(&stack, &previous_stack_);
  struct sigaction action{};
  action.sa_sigaction = &handle;
  // Not deferred: the handler never returns, it leaves the fibre for good.
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  for (int i = 0; i < 4; ++i) sigaction(kSignals[i], &action, &previous_[i]);
}

FaultHandlers::~FaultHandlers() {
  for (int i = 0; i < 4; ++i) sigaction(kSignals[i], &previous_[i], nullptr);
  sigaltstack(&previous_stack_, nullptr);
}

namespace {

// What the compilers hand to a failed check of -fsanitize (GCC's and LLVM's ubsan).
struct Location {
  const char* file;
  uint32_t line, column;
};
struct Type {
  uint16_t kind, info;
  char name[1];
};
struct TypeMismatch {
  Location location;
  const Type* type;
  unsigned char log_alignment, kind;
};

[[noreturn]] void undefined(const Location& location, const std::string& what) {
  const std::string file = location.file != nullptr ? location.file : "?";
  const std::string text =
      what + " (" + file.substr(file.rfind('/') + 1) + ":" + std::to_string(location.line) + ")";
  if (self != nullptr) fail(text);
  fprintf(stderr, "undefined behaviour outside a kernel: %s\n", text.c_str());
  abort();
}

}  // namespace
}  // namespace host_cuda

// The kernels are compiled with -fsanitize=alignment and others (CMakeLists.txt) but not linked to
// its runtime, which would print and go on, or end Python: these take its place, and the error
// names the line and the thread. This is what finds a 16-byte load at an address that is no
// multiple of 16: the host's processor would not mind.
extern "C" {
void __ubsan_handle_type_mismatch_v1(host_cuda::TypeMismatch* data, uintptr_t address) {
  const uintptr_t alignment = uintptr_t{1} << data->log_alignment;
  const std::string type = data->type->name;
  if (address == 0) host_cuda::undefined(data->location, "null pointer to " + type);
  char text[32];
  snprintf(text, sizeof text, "0x%" PRIxPTR, address);
  if (address % alignment != 0)
    host_cuda::undefined(data->location, "misaligned address " + std::string(text) + " of " + type +
                                             ", which needs " + std::to_string(alignment) +
                                             " bytes");
  host_cuda::undefined(data->location, "too little memory for " + type);
}

#define HOST_CUDA_UNDEFINED(name, what)                            \
  void __ubsan_handle_##name(host_cuda::Location* location, ...) { \
    host_cuda::undefined(*location, what);                         \
  }
HOST_CUDA_UNDEFINED(out_of_bounds, "index out of bounds")
HOST_CUDA_UNDEFINED(shift_out_of_bounds, "shift out of bounds")
HOST_CUDA_UNDEFINED(add_overflow, "signed overflow of +")
HOST_CUDA_UNDEFINED(sub_overflow, "signed overflow of -")
HOST_CUDA_UNDEFINED(mul_overflow, "signed overflow of *")
HOST_CUDA_UNDEFINED(negate_overflow, "signed overflow of unary -")
HOST_CUDA_UNDEFINED(divrem_overflow, "integer division by zero or overflow")
HOST_CUDA_UNDEFINED(builtin_unreachable, "__builtin_unreachable is reached")
HOST_CUDA_UNDEFINED(missing_return, "a function ends without a return")
HOST_CUDA_UNDEFINED(float_cast_overflow, "a float that its integer type cannot hold")
#undef HOST_CUDA_UNDEFINED
}
