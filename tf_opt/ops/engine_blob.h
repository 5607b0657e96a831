// Reads the container that tf_opt/engines/blob.py writes; that file documents the layout.

#ifndef TF_OPT_OPS_ENGINE_BLOB_H_
#define TF_OPT_OPS_ENGINE_BLOB_H_

#include <string>
#include <string_view>
#include <vector>

#include "runtime.h"

namespace tf_opt {

struct EngineBlob {
  std::string_view header;   // JSON
  std::string_view payload;  // What the runtime reads.
};

// Checks magic, version, lengths and checksum. The views in `blob` point into `bytes`.
Status ParseEngineBlob(std::string_view bytes, EngineBlob* blob);

// What the optimized graph called the engine's inputs ("input_ids:0"), in their order; fewer where
// the header does not tell.
std::vector<std::string> InputNames(std::string_view header);

}  // namespace tf_opt

#endif  // TF_OPT_OPS_ENGINE_BLOB_H_
