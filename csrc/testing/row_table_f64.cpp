#include "row_table.h"

namespace softnce::testing {

static const bool added = add_row_kernels<double>("f64");

}  // namespace softnce::testing
