#include "kernel_table.h"

namespace softnce::testing {

using host_cuda::Error;

unsigned char* KernelArguments::add_array(const std::string& name, size_t size,
                                          size_t element_bytes) {
  Array array{std::make_unique<host_cuda::Guarded>(name, size * element_bytes), size,
              element_bytes};
  return arrays_.insert_or_assign(name, std::move(array)).first->second.memory->data();
}

void KernelArguments::add_number(const std::string& name, double value) { numbers_[name] = value; }

void* KernelArguments::find(const char* name, size_t element_bytes) const {
  const auto found = arrays_.find(name);
  if (found == arrays_.end()) return nullptr;
  const Array& array = found->second;
  if (element_bytes != 0 && array.element_bytes != element_bytes)
    throw Error(std::string(name) + " must have elements of " + std::to_string(element_bytes) +
                " bytes, got " + std::to_string(array.element_bytes));
  return array.memory->data();
}

size_t KernelArguments::element_bytes(const char* name) const {
  return arrays_.at(name).element_bytes;
}

int64_t KernelArguments::size(const char* name) const {
  return static_cast<int64_t>(arrays_.at(name).size);
}

double KernelArguments::number(const char* name) const {
  const auto found = numbers_.find(name);
  if (found == numbers_.end()) throw Error(std::string("the kernel needs the number ") + name);
  return found->second;
}

void KernelArguments::check() const {
  for (const auto& [name, array] : arrays_)
    if (const std::string damage = array.memory->damage(); !damage.empty()) throw Error(damage);
}

KernelTable& kernel_table() {
  static KernelTable table;
  return table;
}

void run_kernel(const std::string& name, const KernelArguments& arguments) {
  const auto found = kernel_table().find(name);
  if (found == kernel_table().end()) throw Error("there is no kernel " + name);
  found->second(arguments);
  arguments.check();
}

}  // namespace softnce::testing
