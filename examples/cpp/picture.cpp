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
constexpr std::int64_t kMaxInScans = kMaxPixels / 2;      // where it is decoded as a whole, in up to 9 bytes a pixel
constexpr std::int64_t kMaxResized = 50'000'000;          // by OpenCV, which cannot resize a part
constexpr std::int64_t kMaxAspect = 4096;
constexpr std::uintmax_t kMaxFileBytes = 80'000'000;

using Bytes = std::vector<unsigned char>;

// Of a file, or of a pipe, which has no size.
Bytes read(const std::filesystem::path& path) {
    const std::string name = path.string();
    const auto refuse = [&](const std::string& why) { throw Error(name + ": " + why); };
    std::error_code failed;
    const auto status = std::filesystem::status(path, failed);
    if (status.type() == std::filesystem::file_type::not_found) refuse("no such file");
    if (failed) refuse("cannot be read: " + failed.message());
    const bool has_size = std::filesystem::is_regular_file(status);
    const std::uintmax_t expected = has_size ? std::filesystem::file_size(path, failed) : 0;
    std::ifstream file(path, std::ios::binary);
    if (!file || failed) refuse("cannot be read");
    Bytes data(std::min(expected, kMaxFileBytes) + 1);  // one more, at which the end is met
    std::size_t held = 0;
    while (file && held <= kMaxFileBytes) {
        if (held == data.size()) data.resize(2 * held);
        file.read(reinterpret_cast<char*>(data.data() + held), static_cast<std::streamsize>(data.size() - held));
        held += static_cast<std::size_t>(file.gcount());
    }
    if (file.bad()) refuse("cannot be read");
    if (held == 0) refuse("the file is empty");
    if (held > kMaxFileBytes) {
        refuse("more than " + std::to_string(kMaxFileBytes) + " bytes, too large for a picture; scale it down first");
    }
    data.resize(held);
    return data;
}

// Baseline, or one of those that are decoded as a whole. Source: ITU-T T.81, B.2.2 and B.2.3.
std::string kind(const Bytes& data) {
    std::size_t place = 2;
    unsigned colours = 0;
    while (place + 4 < data.size()) {
        const unsigned marker = data[place + 1];
        if (data[place] != 0xFF || marker == 0xFF) {
            place += 1;
            continue;
        }
        if (marker >= 0xC0 && marker <= 0xCF && marker != 0xC4 && marker != 0xC8 && marker != 0xCC) {
            if (marker > 0xC1) return "progressive";
            colours = place + 9 < data.size() ? data[place + 9] : 0;
        }
        if (marker == 0xDA) return data[place + 4] < colours ? "multi-scan" : "baseline";  // the first scan
        if (marker == 0x01 || (marker >= 0xD0 && marker <= 0xD8)) {
            place += 2;  // a marker without a length
        } else {
            place += 2 + (data[place + 2] << 8 | data[place + 3]);
        }
    }
    return "progressive";
}

void check_size(std::int64_t width, std::int64_t height, const std::string& kind, const std::string& name) {
    const std::int64_t most = kind == "baseline" ? kMaxPixels : kMaxInScans;
    const std::string size = std::to_string(width) + " x " + std::to_string(height) + " pixels";
    if (width * height > most) {
        throw Error(name + ": " + size + " are too many: at most " + std::to_string(most) + " are decoded in a " + kind +
                    " JPEG; scale it down first");
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
    check_size(width, height, kind(data), name);
    picture.reshape(height, width);
    refuse_unless(tjDecompress2(decoder.get(), data.data(), num_bytes, picture.rgb.data(), width, 0, height, TJPF_RGB,
                                TJFLAG_ACCURATEDCT | TJFLAG_STOPONWARNING | TJFLAG_LIMITSCANS) == 0);
}

Picture preprocessed(const Picture& picture, const Preprocess& preprocess) {
    const auto [height, width] = resized(picture.height, picture.width, preprocess);
    if (preprocess.resampler == Resampler::opencv_bilinear && height * width > kMaxResized) {
        throw Error("a picture of " + std::to_string(picture.width) + " x " + std::to_string(picture.height) +
                    " pixels is too narrow: opencv-bilinear would make " + std::to_string(width) + " x " +
                    std::to_string(height) + " of it, and at most " + std::to_string(kMaxResized) +
                    " pixels are allowed. Crop it first");
    }
    const Span rows = cropped(height, preprocess);
    const Span columns = cropped(width, preprocess);
    const bool same = height == picture.height && width == picture.width;
    const Picture square = same ? part(picture, rows, columns) : resize(picture, rows, columns, preprocess.resampler);
    return padded(square, preprocess.crop_px);
}

}  // namespace anabranch
