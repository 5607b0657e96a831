// Counters by segment name, read from Python.

#ifndef TF_OPT_OPS_STATISTICS_H_
#define TF_OPT_OPS_STATISTICS_H_

#include <string>

#include "runtime.h"

namespace tf_opt {

// The counters of a segment, created at the first call; they live as long as the process.
Statistics* StatisticsOf(const std::string& segment_name);

// Raises `maximum` to `value` where it is lower.
void RaiseTo(std::atomic<int64_t>* maximum, int64_t value);

}  // namespace tf_opt

#endif  // TF_OPT_OPS_STATISTICS_H_
