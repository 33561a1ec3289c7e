// Runs one kernel of kernel_table.h with a real thread for each CUDA thread, for ThreadSanitizer:
//   tsan_driver KERNEL grid=2 block=64 [cluster=1 cooperative=0 shared_bytes=0] [NUMBER=3.5 ...]
//               [ARRAY:f4:SIZE ...] [ARRAY:i8:SIZE:STEP ...]
// Arrays of floats (f2 f4 f8; f2 is bfloat16) have values in [-1, 1), arrays of integers (i4 i8)
// rise by STEP from 0.
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

// `what` is TYPE:SIZE or TYPE:SIZE:STEP.
void add_array(KernelArguments& arguments, const std::string& name, const std::string& what) {
  const std::string type = what.substr(0, 2);
  const size_t bytes = static_cast<size_t>(type.at(1) - '0'), colon = what.find(':', 3);
  const size_t size = std::stoul(what.substr(3));
  const int64_t step = colon == std::string::npos ? 0 : std::stol(what.substr(colon + 1));
  unsigned char* const data = arguments.add_array(name, size, bytes);
  uint64_t state = 1;
  for (size_t i = 0; i < size; ++i) {
    unsigned char* const at = data + i * bytes;
    const double value = draw(state);
    const int64_t whole = static_cast<int64_t>(i) * step;
    if (type == "f2")
      put(at, __float2bfloat16_rn(static_cast<float>(value)));
    else if (type == "f4")
      put(at, static_cast<float>(value));
    else if (type == "f8")
      put(at, value);
    else if (type == "i4")
      put(at, static_cast<int32_t>(whole));
    else
      put(at, whole);
  }
}

void add(KernelArguments& arguments, const std::string& word) {
  const size_t colon = word.find(':'), equals = word.find('=');
  if (colon != std::string::npos)
    return add_array(arguments, word.substr(0, colon), word.substr(colon + 1));
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
