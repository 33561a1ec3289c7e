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

  unsigned char* add_array(const std::string& name, size_t size, size_t element_bytes) {
    Array& array = arrays_[name];
    array.memory = std::make_unique<host_cuda::Guarded>(name, size * element_bytes);
    array.size = size;
    array.element_bytes = element_bytes;
    return array.memory->data();
  }
  void add_number(const std::string& name, double value) { numbers_[name] = value; }

  // Null where no such array was given.
  template <typename T>
  T* array(const std::string& name) const {
    const auto found = arrays_.find(name);
    if (found == arrays_.end()) return nullptr;
    if (found->second.element_bytes != sizeof(T))
      throw host_cuda::Error(name + " must have elements of " + std::to_string(sizeof(T)) +
                             " bytes, got " + std::to_string(found->second.element_bytes));
    return reinterpret_cast<T*>(found->second.memory->data());
  }
  void* bytes(const std::string& name) const {
    const auto found = arrays_.find(name);
    return found == arrays_.end() ? nullptr : found->second.memory->data();
  }
  size_t element_bytes(const std::string& name) const { return arrays_.at(name).element_bytes; }
  int64_t size(const std::string& name) const {
    return static_cast<int64_t>(arrays_.at(name).size);
  }
  double number(const std::string& name) const {
    const auto found = numbers_.find(name);
    if (found == numbers_.end()) throw host_cuda::Error("the kernel needs the number " + name);
    return found->second;
  }
  bool flag(const std::string& name) const { return number(name) != 0; }

  // Throws where a kernel wrote beside an array.
  void check() const {
    for (const auto& [name, array] : arrays_)
      if (const std::string damage = array.memory->damage(); !damage.empty())
        throw host_cuda::Error(damage);
  }

 private:
  struct Array {
    std::unique_ptr<host_cuda::Guarded> memory;
    size_t size = 0, element_bytes = 1;
  };
  std::map<std::string, Array> arrays_;
  std::map<std::string, double> numbers_;
};

using KernelTable = std::map<std::string, void (*)(const KernelArguments&)>;

void add_toy_kernels(KernelTable& table);
void add_row_kernels(KernelTable& table);

inline const KernelTable& kernel_table() {
  static const KernelTable table = [] {
    KernelTable all;
    add_toy_kernels(all);
    add_row_kernels(all);
    return all;
  }();
  return table;
}

inline void run_kernel(const std::string& name, const KernelArguments& arguments) {
  const auto found = kernel_table().find(name);
  if (found == kernel_table().end()) throw host_cuda::Error("there is no kernel " + name);
  found->second(arguments);
  arguments.check();
}

}  // namespace softnce::testing
