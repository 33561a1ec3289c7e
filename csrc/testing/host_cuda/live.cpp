#include "live.h"

#include <cstdio>
#include <cstring>

namespace host_cuda {

std::string text(const uint3& at) {
  return "(" + std::to_string(at.x) + ", " + std::to_string(at.y) + ", " + std::to_string(at.z) +
         ")";
}

std::string name(const ThreadView& thread) {
  return "block " + text(thread.block_idx) + " thread " + text(thread.thread_idx);
}

std::string place(const Call& call) {
  const std::string file = call.file;
  return std::string(call.name) + " (" + file.substr(file.rfind('/') + 1) + ":" +
         std::to_string(call.line) + ")";
}

// One place has one name; but a header's may have a copy in each file that includes it.
static bool same(const char* a, const char* b) { return a == b || strcmp(a, b) == 0; }

bool same(const Call& a, const Call& b) {
  return a.line == b.line && same(a.name, b.name) && same(a.file, b.file);
}

bool meet(const Thread& a, const Thread& b) {
  return a.state == b.state && same(a.call, b.call) && a.mask == b.mask;
}

std::string state(const Thread& thread) {
  switch (thread.state) {
    case State::kDone:
      return "has ended";
    case State::kReady:
    case State::kYield:
      return "runs";
    case State::kWarp: {
      char mask[16];
      snprintf(mask, sizeof mask, "0x%08x", thread.mask);
      return "waits at " + place(thread.call) + " with mask " + mask;
    }
    default:
      return "waits at " + place(thread.call);
  }
}

std::string stuck(const Blocks& blocks, unsigned cluster) {
  for (const State scope : {State::kWarp, State::kBlock, State::kCluster, State::kGrid}) {
    for (unsigned slot = 0; slot < blocks.size(); ++slot) {
      const Block& block = *blocks[slot];
      for (unsigned i = 0; i < block.size; ++i) {
        const Thread& thread = block.threads[i];
        if (thread.state != scope) continue;
        unsigned first = slot, slots = 1;
        if (scope == State::kGrid) first = 0, slots = static_cast<unsigned>(blocks.size());
        if (scope == State::kCluster) first = slot / cluster * cluster, slots = cluster;
        for (unsigned other_slot = first; other_slot < first + slots; ++other_slot) {
          const Block& other = *blocks[other_slot];
          for (unsigned j = 0; j < other.size; ++j) {
            if (scope == State::kWarp &&
                (j / kWarp != i / kWarp || (thread.mask >> j % kWarp & 1) == 0))
              continue;
            if (scope == State::kCluster ? other.threads[j].arrivals < thread.arrivals
                                         : !meet(thread, other.threads[j]))
              return name(thread) + " " + state(thread) + ", but " + name(other.threads[j]) + " " +
                     state(other.threads[j]);
          }
        }
        if (scope == State::kWarp)
          return name(thread) + " " + state(thread) + ", which names lanes that do not exist";
      }
    }
  }
  return "a thread waits in __nanosleep for what no other thread does";
}

}  // namespace host_cuda
