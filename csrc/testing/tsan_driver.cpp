// Runs one kernel of kernel_table.h with a real thread for each CUDA thread, for ThreadSanitizer:
//   tsan_driver KERNEL grid=2 block=64 [cluster=1 cooperative=0 shared_bytes=0] [NUMBER=3.5 ...]
//               [ARRAY:f4:SIZE ARRAY:i8:SIZE ...]
// Arrays of floats (f2 f4 f8; f2 is bfloat16) have values in [-1, 1), arrays of integers (i4 i8)
// are 0.
#include <cuda_bf16.h>

#include <cstdio>
#include <cstring>
#include <string>

#include "kernel_table.h"

namespace {

using softnce::testing::KernelArguments;

double draw(uint64_t& state) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return static_cast<double>(state >> 11) * 0x1p-52 - 1;
}

template <typename T>
void put(unsigned char* at, T value) {
  memcpy(at, &value, sizeof value);
}

void add_array(KernelArguments& arguments, const std::string& name, const std::string& type,
               size_t size) {
  const size_t bytes = static_cast<size_t>(type.at(1) - '0');
  unsigned char* const data = arguments.add_array(name, size, bytes);
  uint64_t state = 1;
  for (size_t i = 0; i < size; ++i) {
    unsigned char* const at = data + i * bytes;
    const double value = draw(state);
    if (type == "f2")
      put(at, __float2bfloat16_rn(static_cast<float>(value)));
    else if (type == "f4")
      put(at, static_cast<float>(value));
    else if (type == "f8")
      put(at, value);
    else
      memset(at, 0, bytes);
  }
}

void add(KernelArguments& arguments, const std::string& word) {
  const size_t colon = word.find(':'), equals = word.find('=');
  if (colon != std::string::npos) {
    const size_t second = word.find(':', colon + 1);
    return add_array(arguments, word.substr(0, colon), word.substr(colon + 1, second - colon - 1),
                     std::stoul(word.substr(second + 1)));
  }
  const std::string name = word.substr(0, equals);
  const double value = std::stod(word.substr(equals + 1));
  const unsigned whole = value > 0 ? static_cast<unsigned>(value) : 0;
  if (name == "grid")
    arguments.launch.grid = whole;
  else if (name == "block")
    arguments.launch.block = whole;
  else if (name == "cluster")
    arguments.launch.cluster = whole;
  else if (name == "cooperative")
    arguments.launch.cooperative = whole != 0;
  else if (name == "shared_bytes")
    arguments.launch.shared_bytes = whole;
  else
    arguments.add_number(name, value);
}

}  // namespace

int main(int count, char** words) {
  try {
    KernelArguments arguments;
    for (int i = 2; i < count; ++i) add(arguments, words[i]);
    softnce::testing::run_kernel(count > 1 ? words[1] : "", arguments);
  } catch (const std::exception& error) {
    fprintf(stderr, "tsan_driver: %s\n", error.what());
    return 2;
  }
  puts("done");
}
