#include "guarded.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <mutex>
#include <new>
#include <utility>

namespace host_cuda {
namespace {

constexpr size_t kAlignment = 16;
// On both sides: a wrong stride leads further than a page. It costs no memory.
constexpr size_t kGuardBytes = size_t{4} << 20;
constexpr unsigned char kPoison = 0xff;

size_t round_up(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }

size_t page() {
  static const size_t size = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return size;
}

std::mutex list_lock;
Guarded* list = nullptr;

}  // namespace

Guarded::Guarded(std::string name, size_t bytes) : name_(std::move(name)), bytes_(bytes) {
  inside_ = round_up(bytes, page());
  void* mapping =
      mmap(nullptr, inside_ + 2 * kGuardBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) throw std::bad_alloc();
  mapping_ = static_cast<unsigned char*>(mapping);
  data_ = mapping_ + kGuardBytes + inside_ - round_up(bytes, kAlignment);
  allow(true);
  poison();
  const std::lock_guard<std::mutex> guard(list_lock);
  next_ = list;
  if (next_ != nullptr) next_->previous_ = this;
  list = this;
}

Guarded::~Guarded() {
  {
    const std::lock_guard<std::mutex> guard(list_lock);
    (previous_ != nullptr ? previous_->next_ : list) = next_;
    if (next_ != nullptr) next_->previous_ = previous_;
  }
  munmap(mapping_, inside_ + 2 * kGuardBytes);
}

void Guarded::poison() { memset(mapping_ + kGuardBytes, kPoison, inside_); }

void Guarded::allow(bool access) {
  open_ = access;
  if (inside_ == 0) return;
  if (mprotect(mapping_ + kGuardBytes, inside_, access ? PROT_READ | PROT_WRITE : PROT_NONE) != 0)
    throw std::bad_alloc();
}

std::string Guarded::damage() const {
  for (const unsigned char* at = mapping_ + kGuardBytes; at < mapping_ + kGuardBytes + inside_;
       ++at) {
    if (at == data_) at += bytes_;
    if (at < mapping_ + kGuardBytes + inside_ && *at != kPoison)
      return "a write to " + describe(at);
  }
  return "";
}

// Called from a signal handler too, of a thread that holds no lock: kernels make no arrays.
std::string Guarded::describe(const void* address) {
  const std::lock_guard<std::mutex> guard(list_lock);
  const auto at = reinterpret_cast<uintptr_t>(address);
  for (const Guarded* array = list; array != nullptr; array = array->next_) {
    const auto mapping = reinterpret_cast<uintptr_t>(array->mapping_);
    if (at < mapping || at >= mapping + array->inside_ + 2 * kGuardBytes) continue;
    const auto byte = static_cast<intptr_t>(at - reinterpret_cast<uintptr_t>(array->data_));
    return "byte " + std::to_string(byte) + " of " + array->name_ + " (" +
           std::to_string(array->bytes_) + " bytes" + (array->open_ ? ")" : ", closed)");
  }
  return "";
}

}  // namespace host_cuda
