// SHA-256 (FIPS 180-4), by OpenSSL's libcrypto.
#pragma once

#include <openssl/evp.h>

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

namespace anabranch {

class Sha256 {
public:
    Sha256();

    void add(std::string_view bytes);

    // Of all that was added, 64 digits in hexadecimal. Nothing can be added after it.
    std::string digits();

private:
    struct Freed {
        void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
    };
    std::unique_ptr<EVP_MD_CTX, Freed> context_;
};

// Of a file. Throws Error where it cannot be read.
std::string sha256_of(const std::filesystem::path& path);

}  // namespace anabranch
