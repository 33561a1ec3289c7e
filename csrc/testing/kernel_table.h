// The CUDA kernels by name, their arguments by name: what the bridge (kernel_bridge.cpp) and the
// ThreadSanitizer driver (tsan_driver.cpp) run.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "host_cuda/engine.h"
#include "host_cuda/guarded.h"

namespace softnce::testing {

// Arrays lie in memory of their own, whose end is guarded: a kernel's view of them, as cudaMalloc
// and a copy would give it.
class KernelArguments {
 public:
  host_cuda::Launch launch;

  unsigned char* add_array(const std::string& name, size_t size, size_t element_bytes);
  void add_number(const std::string& name, double value);

  // Null where no such array was given.
  template <typename T>
  T* array(const char* name) const {
    return static_cast<T*>(find(name, sizeof(T)));
  }
  // The same of any type, and the bytes of an element.
  void* untyped_array(const char* name) const { return find(name, 0); }
  size_t element_bytes(const char* name) const;
  int64_t size(const char* name) const;
  double number(const char* name) const;
  bool flag(const char* name) const { return number(name) != 0; }

  // Throws where a kernel wrote beside an array.
  void check() const;

 private:
  struct Array {
    std::unique_ptr<host_cuda::Guarded> memory;
    size_t size, element_bytes;
  };
  void* find(const char* name, size_t element_bytes) const;

  std::map<std::string, Array> arrays_;
  std::map<std::string, double> numbers_;
};

using KernelTable = std::map<std::string, void (*)(const KernelArguments&)>;

// Of the files that are linked: each adds its kernels before main.
KernelTable& kernel_table();

void run_kernel(const std::string& name, const KernelArguments& arguments);

}  // namespace softnce::testing
