#include "sha256.hpp"

#include <array>
#include <fstream>
#include <vector>

#include "error.hpp"

namespace anabranch {
namespace {

constexpr std::size_t kReadBytes = 1U << 20U;

void want(int done) {
    if (done != 1) throw Error("OpenSSL computes no SHA-256 here; install a libcrypto that does");
}

}  // namespace

Sha256::Sha256() : context_(EVP_MD_CTX_new()) { want(EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr)); }

void Sha256::add(std::string_view bytes) { want(EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size())); }

std::string Sha256::digits() {
    std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
    unsigned int size = 0;
    want(EVP_DigestFinal_ex(context_.get(), digest.data(), &size));
    std::string digits;
    for (unsigned int index = 0; index < size; ++index) {
        digits += "0123456789abcdef"[digest[index] >> 4U];
        digits += "0123456789abcdef"[digest[index] & 15U];
    }
    return digits;
}

std::string sha256_of(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    std::vector<char> bytes(kReadBytes);
    Sha256 hash;
    while (file.read(bytes.data(), static_cast<std::streamsize>(bytes.size())) || file.gcount() > 0) {
        hash.add({bytes.data(), static_cast<std::size_t>(file.gcount())});
    }
    if (!file.eof()) throw Error(path.string() + " cannot be read");
    return hash.digits();
}

}  // namespace anabranch
