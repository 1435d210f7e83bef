#include "picture.hpp"

#include <turbojpeg.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "error.hpp"

namespace anabranch {
namespace {

constexpr std::int64_t kMaxPixels = 50'000'000;           // 150 MB
constexpr std::int64_t kMaxProgressive = kMaxPixels / 2;  // which is decoded as a whole, in up to 9 bytes a pixel
constexpr std::int64_t kMaxAspect = 4096;
constexpr std::uintmax_t kMaxFileBytes = 80'000'000;

using Bytes = std::vector<unsigned char>;

Bytes read(const std::filesystem::path& path) {
    const std::string name = path.string();
    std::error_code failed;
    const std::uintmax_t num_bytes = std::filesystem::file_size(path, failed);
    if (failed == std::errc::no_such_file_or_directory) throw Error(name + ": no such file");
    if (failed) throw Error(name + ": cannot be read: " + failed.message());
    if (num_bytes == 0) throw Error(name + ": the file is empty");
    if (num_bytes > kMaxFileBytes) {
        throw Error(name + ": more than " + std::to_string(kMaxFileBytes) +
                    " bytes, too large for a picture; scale it down first");
    }
    Bytes data(num_bytes);
    std::ifstream file(path, std::ios::binary);
    if (!file.read(reinterpret_cast<char*>(data.data()), static_cast<std::streamsize>(num_bytes))) {
        throw Error(name + ": cannot be read");
    }
    return data;
}

// Whether the first frame header is of a kind that is decoded as a whole. Source: ITU-T T.81, table B.1.
bool is_progressive(const Bytes& data) {
    std::size_t place = 2;
    while (place + 4 <= data.size()) {
        const unsigned marker = data[place + 1];
        if (data[place] != 0xFF || marker == 0xFF) {
            place += 1;
        } else if (marker >= 0xC0 && marker <= 0xCF && marker != 0xC4 && marker != 0xC8 && marker != 0xCC) {
            return marker > 0xC1;
        } else if (marker == 0x01 || (marker >= 0xD0 && marker <= 0xD8)) {
            place += 2;  // a marker without a length
        } else {
            place += 2 + (data[place + 2] << 8 | data[place + 3]);
        }
    }
    return true;
}

void check_size(std::int64_t width, std::int64_t height, bool progressive, const std::string& name) {
    const std::int64_t most = progressive ? kMaxProgressive : kMaxPixels;
    const std::string size = std::to_string(width) + " x " + std::to_string(height) + " pixels";
    if (width * height > most) {
        throw Error(name + ": " + size + " are too many: at most " + std::to_string(most) + " are decoded in a " +
                    (progressive ? "progressive" : "baseline") + " JPEG; scale it down first");
    }
    if (std::max(width, height) > kMaxAspect * std::min(width, height)) {
        throw Error(name + ": " + size + " are a strip, not a picture: at most 1 : " + std::to_string(kMaxAspect));
    }
}

std::int64_t half_to_even(double value) { return static_cast<std::int64_t>(std::nearbyint(value)); }

// Height and width after resizing, before the crop.
std::pair<std::int64_t, std::int64_t> resized(std::int64_t height, std::int64_t width, const Preprocess& preprocess) {
    const std::int64_t resize_px = preprocess.resize_px;
    if (preprocess.fit == Fit::squash) return {resize_px, resize_px};
    const auto shorter = static_cast<double>(std::min(height, width));
    const auto longer = static_cast<double>(std::max(height, width));
    const auto wanted = static_cast<double>(resize_px);
    std::int64_t new_shorter = resize_px;
    auto new_longer = static_cast<std::int64_t>(wanted * longer / shorter);
    if (preprocess.rounding == Rounding::paddleclas) {
        new_shorter = half_to_even(shorter * (wanted / shorter));
        new_longer = half_to_even(longer * (wanted / shorter));
    }
    return height <= width ? std::pair(new_shorter, new_longer) : std::pair(new_longer, new_shorter);
}

// What the crop shows of a side.
Span cropped(std::int64_t side, const Preprocess& preprocess) {
    const std::int64_t beyond = std::max<std::int64_t>(0, side - preprocess.crop_px);
    const std::int64_t first = preprocess.rounding == Rounding::paddleclas
                                   ? beyond / 2
                                   : half_to_even(static_cast<double>(beyond) / 2.0);
    return {side, first, std::min(side, first + preprocess.crop_px)};
}

Picture part(const Picture& picture, const Span& rows, const Span& columns) {
    Picture square(rows.length(), columns.length());
    for (std::int64_t y = 0; y < square.height; ++y) {
        const std::uint8_t* from = picture.row(rows.first + y) + columns.first * 3;
        std::copy(from, from + square.width * 3, square.row(y));
    }
    return square;
}

// Zeros around a picture smaller than the crop, one more below and to the right where their number is odd.
Picture padded(const Picture& picture, std::int64_t crop_px) {
    Picture square(crop_px, crop_px);
    const std::int64_t top = (crop_px - picture.height) / 2;
    const std::int64_t left = (crop_px - picture.width) / 2;
    for (std::int64_t y = 0; y < picture.height; ++y) {
        std::copy(picture.row(y), picture.row(y) + picture.width * 3, square.row(top + y) + left * 3);
    }
    return square;
}

}  // namespace

Picture decode(const std::filesystem::path& path) {
    Picture picture;
    decode(path, picture);
    return picture;
}

void decode(const std::filesystem::path& path, Picture& picture) {
    const std::string name = path.string();
    const Bytes data = read(path);
    if (data.size() < 3 || data[0] != 0xFF || data[1] != 0xD8 || data[2] != 0xFF) {
        throw Error(name + ": not a JPEG, by its first bytes; only JPEG is read here");
    }
    const std::unique_ptr<void, decltype(&tjDestroy)> decoder(tjInitDecompress(), &tjDestroy);
    const auto refuse_unless = [&](bool done) {
        if (!done) throw Error(name + ": cannot be decoded as JPEG: " + tjGetErrorStr2(decoder.get()));
    };
    const auto num_bytes = static_cast<unsigned long>(data.size());
    int width = 0;
    int height = 0;
    int subsampling = 0;
    int colours = 0;
    refuse_unless(tjDecompressHeader3(decoder.get(), data.data(), num_bytes, &width, &height, &subsampling,
                                      &colours) == 0);
    if (width < 1 || height < 1) throw Error(name + ": cannot be decoded as JPEG: there is no picture in it");
    if (colours != TJCS_YCbCr && colours != TJCS_GRAY) {
        throw Error(name + ": its colours are stored as RGB, CMYK or YCCK; only YCbCr and grey JPEG is read here");
    }
    check_size(width, height, is_progressive(data), name);
    picture.reshape(height, width);
    refuse_unless(tjDecompress2(decoder.get(), data.data(), num_bytes, picture.rgb.data(), width, 0, height, TJPF_RGB,
                                TJFLAG_ACCURATEDCT | TJFLAG_STOPONWARNING | TJFLAG_LIMITSCANS) == 0);
}

Picture preprocessed(const Picture& picture, const Preprocess& preprocess) {
    const auto [height, width] = resized(picture.height, picture.width, preprocess);
    const Span rows = cropped(height, preprocess);
    const Span columns = cropped(width, preprocess);
    const bool same = height == picture.height && width == picture.width;
    const Picture square = same ? part(picture, rows, columns) : resize(picture, rows, columns, preprocess.resampler);
    return padded(square, preprocess.crop_px);
}

}  // namespace anabranch
