#include "engine_blob.h"

#include <array>
#include <string>

namespace tf_opt {
namespace {

constexpr std::string_view kMagic = "TFOPTENG";
constexpr uint32_t kFormatVersion = 1;
constexpr size_t kFixedHeaderBytes = 8 + 4 + 4;

// The lengths are stored little-endian whatever the machine, and are not aligned: read byte by
// byte.
uint64_t ReadLittleEndian(std::string_view bytes, size_t offset, int count) {
  uint64_t value = 0;
  for (int i = count - 1; i >= 0; --i) value = value << 8 | static_cast<uint8_t>(bytes[offset + i]);
  return value;
}

// CRC-32 as in zlib (ISO 3309, reflected polynomial 0xEDB88320), written out because zlib's headers
// are not part of the TensorFlow wheel.
uint32_t Crc32(std::string_view bytes) {
  static const std::array<uint32_t, 256> table = [] {
    std::array<uint32_t, 256> entries{};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t value = i;
      for (int bit = 0; bit < 8; ++bit) value = value >> 1 ^ ((value & 1) ? 0xEDB88320u : 0u);
      entries[i] = value;
    }
    return entries;
  }();
  uint32_t crc = 0xFFFFFFFFu;
  for (const char byte : bytes) crc = table[(crc ^ static_cast<uint8_t>(byte)) & 0xFF] ^ crc >> 8;
  return ~crc;
}

Status Corrupt(const std::string& what) {
  return {Code::kCorrupt, "the stored engine is damaged: " + what +
                              ". Build the engine again by optimizing the original model."};
}

}  // namespace

Status ParseEngineBlob(std::string_view bytes, EngineBlob* blob) {
  if (bytes.size() < kFixedHeaderBytes) {
    return Corrupt("it has " + std::to_string(bytes.size()) + " bytes, expected at least " +
                   std::to_string(kFixedHeaderBytes));
  }
  if (bytes.substr(0, kMagic.size()) != kMagic) return Corrupt("it does not start with 'TFOPTENG'");
  const uint64_t version = ReadLittleEndian(bytes, 8, 4);
  if (version != kFormatVersion) {
    return {Code::kOtherVersion,
            "the stored engine has format version " + std::to_string(version) +
                ", this tf_opt reads version " + std::to_string(kFormatVersion) +
                ". Optimize the original model again with this tf_opt, or install the tf_opt "
                "that wrote the engine."};
  }
  const uint64_t header_length = ReadLittleEndian(bytes, 12, 4);
  // Compared as "what is left", never as a sum: a damaged length near 2^64 would wrap around.
  uint64_t left = bytes.size() - kFixedHeaderBytes;
  if (header_length > left || left - header_length < 8 + 4) {
    return Corrupt("its header of " + std::to_string(header_length) + " bytes does not fit into " +
                   std::to_string(bytes.size()) + " bytes");
  }
  const size_t payload_offset = kFixedHeaderBytes + header_length + 8;
  const uint64_t payload_length = ReadLittleEndian(bytes, payload_offset - 8, 8);
  left = bytes.size() - payload_offset - 4;
  if (payload_length != left) {
    return Corrupt("its payload should have " + std::to_string(payload_length) + " bytes, " +
                   std::to_string(left) + " are there");
  }
  const std::string_view covered = bytes.substr(0, bytes.size() - 4);
  if (Crc32(covered) != ReadLittleEndian(bytes, covered.size(), 4))
    return Corrupt("its checksum does not match");
  blob->header = bytes.substr(kFixedHeaderBytes, header_length);
  blob->payload = bytes.substr(payload_offset, payload_length);
  return Status::Ok();
}

std::vector<std::string> InputNames(std::string_view header) {
  // As json.dumps writes it. Within a string the quotes would be escaped, so this is the key.
  constexpr std::string_view kKey = "\"inputs\": [";
  std::vector<std::string> names;
  size_t at = header.find(kKey);
  if (at == std::string_view::npos) return names;
  bool inside = false, in_name = false;
  for (at += kKey.size(); at < header.size() && (inside || header[at] != ']'); ++at) {
    char letter = header[at];
    if (letter == '"') {
      inside = in_name = !inside;
      if (inside) names.emplace_back();
      continue;
    }
    if (letter == '\\' && ++at < header.size()) letter = header[at];
    if (letter == ' ') in_name = false;  // Behind the name stand dtype and shape.
    if (in_name) names.back() += letter;
  }
  return names;
}

}  // namespace tf_opt
