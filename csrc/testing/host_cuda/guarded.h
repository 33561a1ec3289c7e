// Memory between pages that nobody may touch: an access past its end is found where it happens.
#pragma once

#include <cstddef>
#include <string>

namespace host_cuda {

// As `cudaMalloc` and the launch give it, aligned to 16 bytes; so up to 15 bytes lie between the
// array's end and the guard page, where a read gives 0xff (NaN) and a write is found by `check`.
class Guarded {
 public:
  Guarded(std::string name, size_t bytes);
  ~Guarded();
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;

  unsigned char* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  void poison();               // all 0xff
  void allow(bool access);     // false: any access is an error
  std::string damage() const;  // what was written outside, or ""

  // "byte 1024 of scores (1024 bytes)": the array on whose pages the address lies, or "".
  static std::string describe(const void* address);

 private:
  std::string name_;
  size_t bytes_;
  unsigned char *mapping_, *data_;
  bool open_ = true;
  size_t inside_;  // accessible bytes, whole pages, between the guards
  Guarded *previous_ = nullptr, *next_ = nullptr;
};

}  // namespace host_cuda
