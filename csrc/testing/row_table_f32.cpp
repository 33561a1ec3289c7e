#include "row_table.h"

namespace softnce::testing {

static const bool added = add_row_kernels<float>("f32");

}  // namespace softnce::testing
